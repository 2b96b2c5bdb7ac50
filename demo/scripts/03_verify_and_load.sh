#!/usr/bin/env bash
# What a node does: the four steps, and only then the policy. Then the same from one file, where there is no network.
. "$(dirname "$0")/lib.sh"
need_registry
[ -f "$keys/cosign.pub" ] || { echo "$keys/cosign.pub is missing; demo/scripts/02_sign_and_push.sh makes it" >&2; exit 1; }

key=(--pubkey "$keys/cosign.pub")
run "$autonomy" verify --image "$image" "${key[@]}" --require-lock
run "$autonomy" policy load --image "$image" "${key[@]}" --state-root "$state/node"
run "$autonomy" policy status --state-root "$state/node"

run "$autonomy" bundle create --image "$image" --out "$state/site.tar"
apart=()
for way in "unshare -n" "unshare -r -n"; do
  # shellcheck disable=SC2086 # the words of a command
  if $way true 2>/dev/null; then apart=($way); break; fi
done
[ ${#apart[@]} -gt 0 ] || echo "no network namespace on this machine: the rest runs beside the network"
run "${apart[@]}" "$autonomy" verify --image "oci-archive:$state/site.tar" "${key[@]}" --require-lock
run "${apart[@]}" "$autonomy" bundle import "$state/site.tar" "${key[@]}" --state-root "$state/site" --activate --channel stable
