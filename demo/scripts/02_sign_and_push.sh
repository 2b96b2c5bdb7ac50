#!/usr/bin/env bash
# What a publisher does: push the image, bind it to its policy by a lock, attach both, sign all three. With real cosign
# where it is installed, else with `autonomy oci sign`.
. "$(dirname "$0")/lib.sh"
[ -f "$state/bundle.tar.gz" ] || demo/scripts/01_build.sh
need_registry
make_keys

lock=$state/autonomy.lock.json
# The digest that the first line of a command ends with, or its second line says.
digest() { tee /dev/stderr | grep -oE '(digest|attached to sha256:[0-9a-f]{64}): sha256:[0-9a-f]{64}' | grep -oE '[^ ]+$'; }

pushed=$(run "$autonomy" oci push "$state/agent" --to "$image" | digest)
run "$autonomy" lock create --image "$image" --bundle "$state/bundle.tar.gz" --name myapp --version 1.0.0 --sequence 1 \
  --channel stable --runtime-version '>=0.1.0 <2.0.0' --out "$lock"
locked=$(run "$autonomy" oci attach-lock --image "$image" --lock "$lock" | digest)
governed=$(run "$autonomy" oci attach-policy --image "$image" --bundle "$state/bundle.tar.gz" | digest)

COSIGN_PASSWORD=$(password)
export COSIGN_PASSWORD
version=$(cosign version 2>&1 | sed -n 's/^GitVersion: *\(v\{0,1\}[0-9][^ ]*\).*/\1/p' || true)
major=${version#v}
major=${major%%.*}
if [ "${major:-0}" -ge 2 ]; then
  echo "cosign $version is installed, and signs"
  flags=(--yes --key "$keys/cosign.key" --tlog-upload=false -a "autonomy.signed-at=$(date -u +%Y-%m-%dT%H:%M:%SZ)")
  # cosign 3 asks its services unless it is told not to; cosign 2 may not know the word.
  if cosign sign --help 2>&1 | grep -q -e --use-signing-config; then flags+=(--use-signing-config=false); fi
  # cosign knows nothing of what belongs together: the image, the lock and the policy are signed one by one.
  for subject in "$pushed" "$locked" "$governed"; do
    run cosign sign "${flags[@]}" "${image%:*}@$subject"
  done
else
  echo "cosign is not installed: \`autonomy oci sign\` signs, in cosign's own layouts"
  run "$autonomy" oci sign --image "$image" --key "$keys/cosign.key"
fi
