#!/usr/bin/env bash
# Act 3: the collector is down, nothing is lost, and everything is delivered after. Plays it in a folder of its own.
. "$(dirname "$0")/lib.sh"
run make demo-offline-drain
