#!/usr/bin/env bash
# The demo's model on a graphics processor, and llama.cpp's Vulkan backend there by turns:
# scripts/bench-gpu.sh [INDEX] [CYCLES] [--alone], INDEX as `dormouse devices` counts them. `--alone` leaves the
# other out.
set -euo pipefail
cd "$(dirname "$0")/.."

alone=
args=()
for word in "$@"; do
  case $word in
    --alone) alone=yes ;;
    *) args+=("$word") ;;
  esac
done

scripts/setup.sh gpu-tests
cargo build --release --quiet --workspace --bin dormouse --example gpu
scripts/model.sh >/dev/null
if [ -z "$alone" ]; then
  mapfile -t driver < <(scripts/llama-peer.sh vulkan)
  args+=(--llama "${driver[@]}")
fi
exec "${CARGO_TARGET_DIR:-target}/release/examples/gpu" \
  "${XDG_CACHE_HOME:-$HOME/.cache}/dormouse/SmolLM2-135M-Instruct.Q4_1.gguf" ${args[@]+"${args[@]}"}
