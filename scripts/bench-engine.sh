#!/usr/bin/env bash
# Our engine beside llama.cpp on the demo's model, in turns.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh
cargo build --release --quiet --workspace --bin dormouse
data=$(scripts/model.sh)
model=${XDG_CACHE_HOME:-$HOME/.cache}/dormouse/SmolLM2-135M-Instruct.Q4_1.gguf
[ -e "$model" ] || { echo "no model in $data" >&2; exit 1; }
mapfile -t peer < <(scripts/llama-peer.sh)
cargo run --release --quiet --package dormouse-engine --example peer -- "$model" "${peer[@]}"
