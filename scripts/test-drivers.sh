#!/usr/bin/env bash
# The tests of graphics processors on another driver than Mesa's: SwiftShader, which computes on the processor too, with
# subgroups of four and a compiler of its own. Debian's Chromium carries it; nothing of that is installed.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly driver=${XDG_CACHE_HOME:-$HOME/.cache}/dormouse/swiftshader
readonly files=(libvk_swiftshader.so vk_swiftshader_icd.json)

scripts/setup.sh gpu-tests # Vulkan's loader
if [ ! -e "$driver/${files[1]}" ]; then
  echo "fetching SwiftShader (apt chromium-common, 32 MB)" >&2
  tmp=$(mktemp -d)
  trap 'rm -rf "$tmp"' EXIT
  (cd "$tmp" && apt-get download -qq chromium-common 2>/dev/null && dpkg -x chromium-common_*.deb .) \
    || { echo "apt-get has no chromium-common" >&2; exit 1; }
  mkdir -p "$driver"
  for file in "${files[@]}"; do mv "$tmp/usr/lib/chromium/$file" "$driver"; done
fi
scripts/model.sh >/dev/null
VK_ICD_FILENAMES="$driver/vk_swiftshader_icd.json" NODEVICE_SELECT=1 \
  cargo test --release --workspace --lib --test it --no-fail-fast gpu
