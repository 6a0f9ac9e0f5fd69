#!/usr/bin/env bash
# Installs what building, testing and the demo need and this machine lacks. Doing it again does nothing.
# `setup.sh gpu-tests` brings a Vulkan driver too that computes on the processor (Mesa's lavapipe).
set -euo pipefail
cd "$(dirname "$0")/.."

readonly target=wasm32-wasip2
readonly tries=5

has() { command -v "$1" >/dev/null 2>&1; }
say() { echo "setup: $*" >&2; }
fail() { say "$*"; exit 1; }

# Runs a command up to $tries times: downloads fail now and then.
retry() {
  for ((try = 1; try <= tries; try++)); do
    "$@" && return
    ((try == tries)) || { say "trying again: $*"; sleep $((2 * try)); }
  done
  return 1
}

install_debian() {
  has apt-get || fail "please install: $*"
  local as_root=()
  if [ "$(id -u)" != 0 ]; then
    has sudo || fail "please install as root: apt-get install $*"
    as_root=(sudo)
  fi
  say "installing $*"
  retry "${as_root[@]}" apt-get update -qq >&2
  retry "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -qq -y --no-install-recommends "$@" >/dev/null
}

packages=()
has cc || packages+=(build-essential) # SQLite and ring are C
has curl || packages+=(curl ca-certificates)
python3 -m pip --version >/dev/null 2>&1 || packages+=(python3 python3-pip) # brings the demo's model
python3 -c 'import ensurepip' 2>/dev/null || packages+=(python3-venv) # builds Python predictors
has npm || packages+=(nodejs npm)                                      # builds JavaScript predictors
if [ "${1:-}" = gpu-tests ] && ! ls /usr/share/vulkan/icd.d/lvp_icd*.json >/dev/null 2>&1; then
  packages+=(mesa-vulkan-drivers libvulkan1)
fi
if [ ${#packages[@]} -gt 0 ]; then install_debian "${packages[@]}"; fi

if ! has cargo; then
  { has apt-cache && apt-cache show rustup >/dev/null 2>&1; } \
    || fail "please install Rust $(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) or newer with rustup"
  install_debian rustup
  retry rustup default stable
fi

has_target() {
  local libraries
  libraries=$(rustc --print target-libdir --target "$target" 2>/dev/null) && [ -d "$libraries" ]
}
if ! has_target; then
  has rustup || fail "this Rust has no $target, and there is no rustup to add it"
  say "adding Rust's $target"
  retry rustup target add "$target" >&2 || fail "rustup target add $target failed $tries times"
fi
