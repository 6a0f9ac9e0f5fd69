#!/usr/bin/env bash
# Puts Cog's own server beside us for `scripts/bench.sh languages`, and prints where its programs are.
set -euo pipefail

version=0.23.1
folder=${XDG_CACHE_HOME:-$HOME/.cache}/dormouse/cog-$version
if [ ! -e "$folder/ready" ]; then
  echo "fetching Cog (pip cog $version)" >&2
  python3 -m venv --clear "$folder"
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "cog==$version" >&2
  touch "$folder/ready"
fi
echo "$folder/bin"
