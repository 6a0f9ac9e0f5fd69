#!/usr/bin/env bash
# Puts llama.cpp beside us for `make bench-engine`: the prebuilt library of an npm package, the headers of a
# Python source distribution, and our driver over its C interface. Prints the command that starts the driver.
# `llama-peer.sh vulkan` does so with its backend for graphics processors, for `make bench-gpu`.
set -euo pipefail

version_npm=3.22.1   # carries llama.cpp 0.5.0
version_pip=0.3.36   # headers of the same interface
here=$(cd "$(dirname "$0")/.." && pwd)
peer=${XDG_CACHE_HOME:-$HOME/.cache}/dormouse/llama-peer-$version_npm
case ${1:-} in
  "") build=linux-x64 tag=v0.5.0 ;;
  vulkan) build=linux-x64-vulkan tag=vulkan.v0.5.0 peer=$peer-vulkan ;;
  *) echo "usage: llama-peer.sh [vulkan]" >&2; exit 2 ;;
esac
libraries=$peer/node_modules/@node-llama-cpp/$build/bins/$build
mkdir -p "$peer"
cd "$peer"

if [ ! -e "$libraries/libllama.$tag.so" ]; then
  echo "fetching llama.cpp (npm node-llama-cpp $version_npm, $build)" >&2
  npm install --ignore-scripts --no-save --omit=optional --force --silent \
    "@node-llama-cpp/$build@$version_npm" >&2
fi
if [ ! -e include/llama.h ]; then
  echo "fetching llama.cpp's headers (pip llama-cpp-python $version_pip, source)" >&2
  python3 -m pip download --quiet --no-deps --no-binary llama-cpp-python \
    "llama-cpp-python==$version_pip" >&2
  tar xzf "llama_cpp_python-$version_pip.tar.gz" --strip-components=3 --wildcards \
    '*/vendor/llama.cpp/include/*' '*/vendor/llama.cpp/ggml/include/*'
  rm -f "llama_cpp_python-$version_pip.tar.gz"
fi
if [ ! -e driver ] || [ "$here/tests/bench/llama_peer.c" -nt driver ]; then
  cc -O2 -Wall -o driver "$here/tests/bench/llama_peer.c" -Iinclude -Iggml/include \
    "$libraries/libllama.$tag.so" "$libraries/libggml.$tag.so" "$libraries/libggml-base.so" \
    -Wl,-rpath,"$libraries"
fi
echo "$peer/driver"
echo "$libraries"
