#!/bin/sh
# An agent's loop over its tools in POSIX sh and curl.
#
#     autonomy run -- sh examples/agent_loop.sh
#
# AUTONOMY_RUNTIME_URL says where the runtime is; `autonomy run` sets it.
set -eu

url=${AUTONOMY_RUNTIME_URL:?is not set; use: autonomy run -- sh examples/agent_loop.sh}
head=$(mktemp)
trap 'rm -f "$head"' EXIT

# call KIND PARAMS: prints the status and the answer. A 503 was not decided durably and is tried again.
call() {
  tries=5
  while :; do
    answer=$(curl -sS --noproxy '*' --max-time 60 -D "$head" -X POST "$url/v1/tool" \
      -H 'Content-Type: application/json' -d "{\"kind\":\"$1\",\"params\":$2,\"agent\":\"example\"}")
    status=$(sed -n '1s/^HTTP\/1.1 \([0-9]*\).*/\1/p' "$head")
    tries=$((tries - 1))
    if [ "$status" != 503 ] || [ "$tries" -eq 0 ]; then
      break
    fi
    wait=$(sed -n 's/^[Rr]etry-[Aa]fter: *\([0-9]*\).*/\1/p' "$head")
    sleep "${wait:-1}"
  done
  case $answer in
    *'"decision":"allow"'*) decision=allow ;;
    *) decision=deny ;;
  esac
  printf '%s: %s (%s) %s\n' "$1" "$decision" "$status" "$answer"
}

call tool.echo '{"message":"hello"}'
call tool.shell '{"argv":["id"]}'
call tool.unknown '{}'
