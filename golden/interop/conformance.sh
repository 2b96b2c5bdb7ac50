#!/usr/bin/env bash
# The distribution-spec's own conformance suites against a registry that runs: the one released with 1.1.1, and the one that
# came after it. Go is needed, and its module proxy; where that does not have the suites, DISTRIBUTION_SPEC names a clone of
# https://github.com/opencontainers/distribution-spec to take them from. Both are pinned to a commit. REGISTRY_USER and
# REGISTRY_PASSWORD are sent when they are set.
#
# Exit 0: everything passed · 1: a test failed · 2: the suites cannot be had here.
set -euo pipefail
url=${1:?usage: golden/interop/conformance.sh http://HOST:PORT FOLDER}
work=${2:?usage: golden/interop/conformance.sh http://HOST:PORT FOLDER}
module=github.com/opencontainers/distribution-spec/conformance
released=v0.0.0-20250123160558-a139cc423184 # the tag v1.1.1
current=v0.0.0-20260716174315-967efdc079b9

cannot() {
  echo "conformance: CANNOT RUN: $1" >&2
  exit 2
}

case "$url" in
  http://*) tls=disabled ;;
  https://*) tls=enabled ;;
  *) cannot "$url is no http:// or https:// address" ;;
esac
command -v go >/dev/null || cannot "there is no Go; install Go 1.24 or newer (https://go.dev/dl) and put it on PATH"
mkdir -p "$work"
work=$(cd "$work" && pwd)
cd "$work" # outside of any Go module

# The folder of one version of the suite.
source_of() {
  local version=$1 said folder
  if [ -n "${DISTRIBUTION_SPEC:-}" ]; then
    folder=$work/source-$version
    rm -rf "$folder" && mkdir -p "$folder"
    git -C "$DISTRIBUTION_SPEC" archive "${version##*-}" conformance | tar -x -C "$folder" ||
      cannot "$DISTRIBUTION_SPEC has no commit ${version##*-}; it must be a whole clone of the distribution-spec"
    echo "$folder/conformance"
    return
  fi
  said=$(go mod download -json "$module@$version" 2>&1) ||
    cannot "Go's module proxy does not give the suite; clone the distribution-spec and name the clone in DISTRIBUTION_SPEC:$(sed -n 's/.*"Error": "\(.*\)",\{0,1\}$/ \1/p' <<<"$said")"
  sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p' <<<"$said"
}

build() {
  local version=$1 folder said
  shift
  [ ! -x "$work/conformance-$version" ] || return 0
  folder=$(source_of "$version") || exit 2
  said=$(go -C "$folder" "$@" -o "$work/conformance-$version" . 2>&1) || cannot "the suite cannot be built: $said"
}
build "$released" test -c
build "$current" build

# A name of its own for each run: the suites want repositories in which nothing is.
name=conformance/run-$(date +%s)-$$
user=${REGISTRY_USER:-} password=${REGISTRY_PASSWORD:-}
failed=0

mkdir -p "$work/released" "$work/current"
if ! (
  cd "$work/released"
  # Without a `from`, nothing is mounted. Reports of requests would hold the credential.
  OCI_ROOT_URL=$url OCI_USERNAME=$user OCI_PASSWORD=$password \
    OCI_NAMESPACE=$name/one OCI_CROSSMOUNT_NAMESPACE=$name/two OCI_AUTOMATIC_CROSSMOUNT=0 \
    OCI_TEST_PULL=1 OCI_TEST_PUSH=1 OCI_TEST_CONTENT_DISCOVERY=1 OCI_TEST_CONTENT_MANAGEMENT=1 \
    OCI_HIDE_SKIPPED_WORKFLOWS=0 OCI_REPORT_DIR=none \
    "$work/conformance-$released" -ginkgo.no-color >"$work/released.log" 2>&1
); then
  failed=1
  grep -E '^ *\[(FAIL|FAILED)\]' "$work/released.log" >&2 || tail -20 "$work/released.log" >&2
fi
summary=$(grep -E '[0-9]+ Passed \| [0-9]+ Failed' "$work/released.log" | tail -1)
ran=$(grep -oE '[0-9]+ Passed' <<<"$summary" | grep -oE '[0-9]+' || echo 0)
[ "$ran" -ge 60 ] || { failed=1; echo "conformance: the suite of 1.1.1 ran $ran tests, which cannot be all" >&2; }
echo "conformance 1.1.1: ${summary:-did not run}"

if ! (
  cd "$work/current"
  # Digests are sha256 here; without a `from`, nothing is mounted.
  OCI_REGISTRY=${url#*://} OCI_TLS=$tls OCI_USERNAME=$user OCI_PASSWORD=$password OCI_VERSION=1.1 \
    OCI_REPO1=$name/three OCI_REPO2=$name/four OCI_RESULTS_DIR=$work/current/results \
    OCI_DATA_SHA512=false OCI_API_BLOBS_MOUNT_ANONYMOUS=false OCI_API_BLOBS_UPLOAD_CANCEL=true \
    OCI_API_BLOBS_DIGEST_HEADER=true OCI_API_MANIFESTS_DIGEST_HEADER=true \
    "$work/conformance-$current" >"$work/current.log" 2>&1
); then
  failed=1
  tail -20 "$work/current.log" >&2
fi
count() { sed -n "s/^ *$1\.*: *\([0-9]*\)$/\1/p" "$work/current.log" | head -1; }
passed=$(count Pass) skipped=$(count Skip) fails=$(count FAIL) errors=$(count Error)
grep -E ': *(FAIL|Error)$' "$work/current.log" >&2 && failed=1
[ "${fails:-1}" = 0 ] && [ "${errors:-1}" = 0 ] && [ "${passed:-0}" -ge 400 ] || {
  failed=1
  echo "conformance: the current suite: ${passed:-0} passed, ${fails:-?} failed, ${errors:-?} errors; see $work/current.log" >&2
}
echo "conformance current: ${passed:-0} passed, ${fails:-?} failed, ${errors:-?} errors, ${skipped:-?} skipped or disabled"

[ "$failed" = 0 ] || { echo "conformance: FAILED; logs in $work" >&2; exit 1; }
echo "conformance: OK"
