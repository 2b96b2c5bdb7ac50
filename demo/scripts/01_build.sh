#!/usr/bin/env bash
# The agent, and the policy bundle that goes with it.
. "$(dirname "$0")/lib.sh"

printf '#!/bin/sh\necho the agent of the story, version 1.0.0\n' >"$state/agent"
run "$autonomy" policy build --in demo/policies --out "$state/bundle.tar.gz" --version 1.0.0
