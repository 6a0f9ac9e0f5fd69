#!/usr/bin/env bash
# Everything that CI checks, in one profile, so that dependencies compile once.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*" >&2; "$@"; }

step scripts/setup.sh gpu-tests
# Kernels of graphics processors run on the driver that every machine can have, whatever else it has.
VK_ICD_FILENAMES=$(echo /usr/share/vulkan/icd.d/lvp_icd*.json)
export VK_ICD_FILENAMES NODEVICE_SELECT=1

step cargo fmt --all --check
step cargo clippy --release --workspace --all-targets -- -D warnings
step cargo clippy --release --package dormouse-engine -- -D warnings # without a GPU's kernels
step cargo build --release --workspace --bin dormouse
step scripts/model.sh
step scripts/test-models.sh
step scripts/sdks.sh
if cargo nextest --version >/dev/null 2>&1; then
  step cargo nextest run --release --workspace --no-fail-fast
  step cargo test --release --workspace --doc
else
  step cargo test --release --workspace
fi
RUSTDOCFLAGS='-D warnings' step cargo doc --release --workspace --no-deps
if cargo deny --version >/dev/null 2>&1; then
  step cargo deny --offline check bans licenses sources
fi
