#!/usr/bin/env bash
# Measures the service over HTTP with the real binary: `make bench`, or scripts/bench.sh
# http|cold|setup|hibernate|thousand|languages|python|dialects|creates|crowd|faults|kill.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh
cargo build --release --quiet --workspace --bins
scripts/model.sh >/dev/null
# For `hibernate`, llama.cpp beside us where it can be had.
if [[ " ${*:-hibernate} " == *" hibernate "* ]] && mapfile -t peer < <(scripts/llama-peer.sh) && [ ${#peer[@]} -eq 2 ]; then
  export DORMOUSE_LLAMA_PEER="${peer[*]}"
fi
exec "${CARGO_TARGET_DIR:-target}/release/bench" "$@"
