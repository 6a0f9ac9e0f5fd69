#!/usr/bin/env bash
# The demo's model on a graphics processor: scripts/bench-gpu.sh [INDEX] [CYCLES], as `dormouse devices` counts them.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh gpu-tests
cargo build --release --quiet --workspace --bin dormouse --example gpu
scripts/model.sh >/dev/null
exec "${CARGO_TARGET_DIR:-target}/release/examples/gpu" \
  "${XDG_CACHE_HOME:-$HOME/.cache}/dormouse/SmolLM2-135M-Instruct.Q4_1.gguf" "$@"
