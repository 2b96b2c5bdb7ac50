#!/usr/bin/env bash
# Act 4 and the coda by hand, in $DEMO_STATE/edge: a signed manifest, another operating system, and the key taken away.
. "$(dirname "$0")/lib.sh"
edged=${EDGED:-bin/edged}
edgectl=${EDGECTL:-bin/edgectl}
[ -x "$edged" ] || { echo "$edged is missing; \`make build\` makes it" >&2; exit 1; }

edge=$(mkdir -p "$state/edge" && cd "$state/edge" && pwd)
rm -rf "${edge:?}"/root "$edge"/files
root=$edge/root
printf '[node]\nid = "edge-1"\nstate_root = "%s"\n\n[control]\nsocket = "%s"\n' "$root" "$edge/ctl.sock" >"$edge/edge.toml"

run "$edged" init --state-root "$root"
[ -f "$edge/manifest.key" ] || run "$autonomy" keys generate --type manifest --out "$edge/manifest"
run cp "$edge/manifest.pub" "$root/identity/manifest-verify.pub"
mkdir -p "$edge/files/bin"
printf '#!/bin/sh\necho "the agent'\''s runtime"\n' >"$edge/files/bin/agent"
chmod 755 "$edge/files/bin/agent"
run "$autonomy" manifest create --in "$edge/files" --version 1 --out "$root/runtime" --binary bin/agent
run "$autonomy" manifest sign --key "$edge/manifest.key" "$root/runtime/manifest.json"
run "$edged" --config "$edge/edge.toml" precheck

zeros() {
  sed -i 's/"composite_hash": "[0-9a-f]*"/"composite_hash": "'"$(printf '0%.0s' $(seq 64))"'"/' "$root/bootstrap/os_fingerprint.json"
  echo "fingerprint tampered — OS replacement simulated"
}
zeros
run "$edged" --config "$edge/edge.toml" precheck
run "$edgectl" epoch --state-root "$root"

zeros
run mv "$root/identity/manifest-verify.pub" "$edge/away.pub"
code=0
run "$edged" --config "$edge/edge.toml" precheck || code=$?
echo "Exit: $code"
run mv "$edge/away.pub" "$root/identity/manifest-verify.pub"
[ "$code" = 5 ]
