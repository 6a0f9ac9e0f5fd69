#!/usr/bin/env bash
# From a bare machine to a language model's answer behind a URL. The second time takes seconds.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly prompt="What is a dormouse? Answer in two sentences."
readonly dormouse=${CARGO_TARGET_DIR:-target}/release/dormouse

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] && [ -z "${NO_COLOR:-}" ] || say() { printf '\n%s\n' "$*"; }

say "Building (the first time takes some minutes)"
scripts/setup.sh
cargo build --release --quiet --workspace --bin dormouse

say "Model"
DORMOUSE_DATA=$(scripts/model.sh)
export DORMOUSE_DATA

work=$(mktemp -d)
server=
stop() {
  local status=$?
  if [ -n "$server" ]; then
    kill -TERM "$server" 2>/dev/null || true
    wait "$server" || { status=$?; echo "the service ended with $status" >&2; }
  fi
  [ "$status" = 0 ] || tail -n 20 "$work/serve.log" >&2 2>/dev/null || true
  rm -rf "$work"
  exit "$status"
}
trap stop EXIT

say "Service"
mkfifo "$work/listening"
"$dormouse" serve --listen 127.0.0.1:0 --json >"$work/listening" 2>"$work/serve.log" &
server=$!
exec 3<"$work/listening"
read -r line <&3 || { echo "the service did not start" >&2; exit 1; }
DORMOUSE_SERVER=${line#*\"url\":\"}
DORMOUSE_SERVER=${DORMOUSE_SERVER%%\"*}
export DORMOUSE_SERVER
echo "$DORMOUSE_SERVER"

say "Deploy"
"$dormouse" push examples/hello
"$dormouse" push examples/chat

# Runs a prediction, keeps what it cost under a name, shows its answer.
call() {
  local name=$1
  shift
  "$dormouse" run "$@" --stats 2>"$work/$name.stats" || { cat "$work/$name.stats" >&2; return 1; }
}

say "hello"
call hello-1 hello name=dormouse
call hello-2 hello name=again

say "chat: $prompt"
call chat-1 chat prompt="$prompt" max_tokens=96
say "the same over HTTP, as it streams"
curl --silent --show-error --no-buffer "$DORMOUSE_SERVER/fn/chat" \
  --header 'accept: text/event-stream' --header 'content-type: application/json' \
  --data '{"prompt": "Say hello in French.", "max_tokens": 12}'
call chat-2 chat prompt="$prompt" max_tokens=96 >/dev/null

say "What it took"
columns=(hello-1 hello-2 chat-1 chat-2)
printf '%-18s%12s%12s%12s%12s\n' "" "${columns[@]}"
for metric in queue_ms cold_start_ms instantiate_ms setup_ms wake_ms predict_ms total_ms \
  prompt_tokens cached_tokens completion_tokens; do
  printf '%-18s' "$metric"
  for column in "${columns[@]}"; do
    printf '%12s' "$(awk -v metric="$metric" '$1 == metric { print $2 }' "$work/$column.stats")"
  done
  printf '\n'
done
