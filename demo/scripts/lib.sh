# What the scripts share; they source it and run at the top of the project. Everything they make lies in $DEMO_STATE
# (target/demo); `make demo-up` starts what they need, `make demo-down` ends it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

state=${DEMO_STATE:-target/demo}
autonomy=${AUTONOMY:-bin/autonomy}
registry=${REGISTRY:-127.0.0.1:5000} # the story calls it registry.local:5000
keys=$state/keys
image=$registry/myapp:v1.0.0

[ -x "$autonomy" ] || { echo "$autonomy is missing; \`make build\` makes it" >&2; exit 1; }
mkdir -p "$state"

# Shows a command as it would be typed, and runs it.
run() {
  { printf '\n$' && printf ' %q' "$@" && printf '\n'; } >&2
  "$@"
}

# Keys for this machine's play only: they are made here, and stay here.
make_keys() {
  [ -f "$keys/cosign.key" ] && return
  mkdir -p -m 700 "$keys"
  COSIGN_PASSWORD=$(password) run "$autonomy" keys generate --type cosign --out "$keys/cosign"
}

# Their password is as secret as the folder that they lie in.
password() {
  local file=$keys/password
  [ -f "$file" ] || (umask 077 && od -An -N16 -tx1 /dev/urandom | tr -d ' \n' >"$file")
  cat "$file"
}

need_registry() {
  demo/stack status registry >/dev/null || { echo "the registry does not run; \`make demo-up\` starts it" >&2; exit 1; }
}
