# The Makefile for people who like just, and the recipes of a developer's day. `just` alone lists them.

_default:
    @just --list --unsorted

# the release binary, in bin/
build:
    make build

# the story in one terminal
demo:
    make demo

# break things on purpose
demo-drills:
    make demo-drills

# all tests
test:
    make test

# formatting, clippy, rooms, dependencies
lint:
    make lint

# known vulnerabilities of dependencies
advisories:
    make advisories

# compare the golden fixtures with what is computed now
check-golden:
    make check-golden

# write the golden fixtures
golden-update:
    make golden-update

# the figures beside their floors
bench:
    make bench

# others compute our formats and decisions
interop:
    make interop

# the simulator under madsim
sim-madsim:
    make sim-madsim

# sweep seeds in the simulator
sweep seconds="10":
    cargo run --quiet -p sim -- sweep --seconds {{seconds}}

# run one seed again and print what it does
replay seed:
    SEED={{seed}} cargo run --quiet -p sim -- replay

# the timeline of one seed
timeline seed:
    SEED={{seed}} cargo run --quiet -p sim -- timeline

# make a failing seed's plan as small as it gets
shrink seed:
    SEED={{seed}} cargo run --quiet -p sim -- shrink

# named situations and how often a sweep reaches them
marks:
    cargo run --quiet -p sim -- marks

# the tests of one row of the fault catalogue, for instance `just fault d03`
fault row:
    cargo test --workspace {{row}}_

# accept changed snapshots after looking at their difference
snapshots:
    cargo insta review

# format everything
fmt:
    cargo fmt --all

# the rules of the rooms alone
rooms:
    cargo run --quiet -p golden --bin room-lint
