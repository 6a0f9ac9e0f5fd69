#!/usr/bin/env bash
# Our engine beside llama.cpp and candle on the demo's model, in turns. `--only TEXT` runs the rows whose name
# contains it, `--alone` leaves the others out.
set -euo pipefail
cd "$(dirname "$0")/.."

peers=(llama candle)
args=()
for word in "$@"; do
  case $word in
    --alone) peers=() ;;
    *) args+=("$word") ;;
  esac
done

scripts/setup.sh
cargo build --release --quiet --workspace --bin dormouse --example peer
data=$(scripts/model.sh)
model=${XDG_CACHE_HOME:-$HOME/.cache}/dormouse/SmolLM2-135M-Instruct.Q4_1.gguf
[ -e "$model" ] || { echo "no model in $data" >&2; exit 1; }
for peer in ${peers[@]+"${peers[@]}"}; do
  mapfile -t driver < <("scripts/$peer-peer.sh")
  args+=("--$peer" "${driver[@]}")
done
exec "${CARGO_TARGET_DIR:-target}/release/examples/peer" "$model" ${args[@]+"${args[@]}"}
