#!/usr/bin/env bash
# Brings the small model of the demo and the tests. Prints the data folder that has it in its catalogue.
# Beside the catalogue, tests find the file under its own name.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${XDG_CACHE_HOME:-$HOME/.cache}/dormouse
file=$cache/SmolLM2-135M-Instruct.Q4_1.gguf
dormouse=${CARGO_TARGET_DIR:-target}/release/dormouse

"$dormouse" model pull smollm2-135m --data "$cache/demo" >&2
if [ ! -e "$file" ]; then
  blob=$("$dormouse" model info smollm2-135m --data "$cache/demo" --json \
    | python3 -c 'import json, sys; print(json.load(sys.stdin)["path"])')
  ln -f "$blob" "$file"
fi
echo "$cache/demo"
