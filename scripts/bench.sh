#!/usr/bin/env bash
# Measures the service over HTTP with the real binary: `make bench`, or scripts/bench.sh http|cold|thousand|languages|faults|kill.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh
cargo build --release --quiet --workspace --bins
scripts/model.sh >/dev/null
cargo run --release --quiet --package dormouse-tests --bin bench -- "$@"
