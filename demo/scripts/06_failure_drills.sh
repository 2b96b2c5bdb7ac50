#!/usr/bin/env bash
# The drills: no or corrupt policy, kill -9 under load, the collector's outage, tampered releases, another system.
. "$(dirname "$0")/lib.sh"
run make demo-drills
