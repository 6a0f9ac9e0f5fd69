#!/usr/bin/env bash
# The clients that people have, unmodified, against the real binary: those of tests/clients, and the scripts of
# a folder of black-box checks if one is named in BLACKBOX.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly root=$PWD clients=$PWD/tests/clients
readonly tools=${XDG_CACHE_HOME:-$HOME/.cache}/dormouse/clients
target=$(mkdir -p "${CARGO_TARGET_DIR:-target}" && cd "${CARGO_TARGET_DIR:-target}" && pwd)
readonly dormouse=$target/release/dormouse guests=$target/clients
BLACKBOX=${BLACKBOX:-}
export TOKEN=${TOKEN:-$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n')}
# What AWS's client signs with.
export AWS_ACCESS_KEY_ID=AKIDEXAMPLE AWS_SECRET_ACCESS_KEY=$TOKEN
export HOOK_HOST=127.0.0.1 PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
failed=()

step() {
  printf '\n== %s\n' "$*" >&2
  "$@" || failed+=("$*")
}

scripts/setup.sh
cargo build --release --quiet --workspace --bin dormouse
env -u CARGO_TARGET_DIR cargo build --quiet --profile guest --target wasm32-wasip2 --target-dir "$guests" \
  --package hello --package chat --package dormouse-test-guests --lib --examples
data=$(mktemp -d)
cp -al "$(scripts/model.sh)/models" "$data/models" 2>/dev/null || cp -a "$(scripts/model.sh)/models" "$data/models"

mkdir -p "$tools/npm"
if ! cmp -s "$clients/requirements.txt" "$tools/venv/requirements.txt"; then
  python3 -m venv --clear "$tools/venv"
  "$tools/venv/bin/pip" install --quiet --requirement "$clients/requirements.txt"
  cp "$clients/requirements.txt" "$tools/venv/"
fi
if ! cmp -s "$clients/package.json" "$tools/npm/package.json"; then
  cp "$clients/package.json" "$tools/npm/new.json"
  (cd "$tools/npm" && mv new.json package.json \
    && npm install --no-package-lock --no-audit --no-fund --loglevel=error >/dev/null) || rm -f "$tools/npm/package.json"
fi
readonly python=$tools/venv/bin/python

server=
stop() {
  [ -z "$server" ] || { kill -TERM "$server" 2>/dev/null && wait "$server"; } || true
  rm -rf "$data"
}
trap stop EXIT

mkfifo "$data/listening"
"$dormouse" serve --listen 127.0.0.1:0 --data "$data" --token "$TOKEN" --set webhook.allow_private=true \
  --aws-access-key-id "$AWS_ACCESS_KEY_ID" --aws-secret-access-key "$AWS_SECRET_ACCESS_KEY" --set http.drain_timeout=2s --log warn --json >"$data/listening" &
server=$!
exec 3<"$data/listening"
read -r line <&3 || { echo "the service did not start" >&2; exit 1; }
BASE_URL=${line#*\"url\":\"}
export BASE_URL=${BASE_URL%%\"*}

deploy() {
  local folder=$guests/wasm32-wasip2/guest name
  for name in hello chat; do
    "$dormouse" push "$name" "$folder/$name.wasm" --server "$BASE_URL" >/dev/null
  done
  for name in reporter failing sleeper; do
    "$dormouse" push "$name" "$folder/examples/$name.wasm" --server "$BASE_URL" >/dev/null
  done
}
export DORMOUSE_TOKEN=$TOKEN
deploy

step "$python" -m pytest --quiet -p no:cacheprovider "$clients"
step env NODE_PATH="$tools/npm/node_modules" node --test "$clients"
for script in ollama_py openai_batches lambda_boto3; do
  step env COMPONENT="$guests/wasm32-wasip2/guest/hello.wasm" "$python" "$clients/$script.py"
done
step "$python" "$clients/cog_diff.py"
if [ -d "$BLACKBOX" ]; then
  for script in cog_http replicate_py openai_py; do
    step env FAIL_FN=failing "$python" "$BLACKBOX/$script.py"
  done
  if command -v promtool >/dev/null; then step "$BLACKBOX/promtool.sh"; fi
  # Last: among other things it removes functions.
  step env TAIL=200 ST="$tools/venv/bin/schemathesis" "$BLACKBOX/schemathesis.sh"
else
  step "$tools/venv/bin/schemathesis" run "$BASE_URL/openapi.json" --url "$BASE_URL" \
    --header "authorization: Bearer $TOKEN" --max-examples 30 --seed 1 --no-color
fi

if [ ${#failed[@]} -gt 0 ]; then
  printf '\nfailed:\n' >&2
  printf '  %s\n' "${failed[@]}" >&2
  exit 1
fi
