#!/usr/bin/env bash
# Puts candle beside us for `make bench-engine`: its crates, and our driver over them, built for this machine.
# Prints the command that starts the driver.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)/tests/bench/candle-peer
peer=${XDG_CACHE_HOME:-$HOME/.cache}/dormouse/candle-peer
echo "building candle's driver" >&2
RUSTFLAGS="-C target-cpu=native" CARGO_TARGET_DIR=$peer \
  cargo build --release --quiet --locked --manifest-path "$here/Cargo.toml"
echo "$peer/release/candle-peer"
