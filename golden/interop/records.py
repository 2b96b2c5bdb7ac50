"""What a collector has to hold after a drain, from the log alone, and how that is compared with what it holds.

A record is a dict of plain values on both sides; a value that OTLP tags with its type is a pair of type and value.
"""

import copy
import datetime
import json
from collections import Counter

from formats import TAIL, check, log

EPOCH = datetime.datetime(1970, 1, 1)
LAST_TIME = 2**64 - 1  # timeUnixNano has 64 bits; later times are held there
SEVERITY = {"error": (17, "ERROR"), "deny": (13, "WARN"), "else": (9, "INFO")}


def nanoseconds(ts):
    """RFC 3339 in UTC as nanoseconds since 1970, in integers."""
    whole, _, fraction = ts.removesuffix("Z").partition(".")
    since = datetime.datetime.fromisoformat(whole) - EPOCH
    return min((since.days * 86400 + since.seconds) * 10**9 + int(fraction.ljust(9, "0")), LAST_TIME)


def text(value):
    return "string_value", value


def expected(folder, exported):
    """The records that the log in `folder` must become; `exported` is the output of `telemetry export`, in bytes."""
    lines = exported.split(b"\n")  # a body may hold U+2028, which str.splitlines would take for the end of a line
    check(lines.pop() == b"", "the export ends with a line feed")
    frames, _ = log(folder)
    check([json.loads(line) for line in lines] == frames, "telemetry export prints the log's frames")
    base = json.loads((folder / "telemetry.base").read_bytes())
    resource = {
        "service.name": text("autonomy"),
        "service.instance.id": text(base["node_id"]),
        "autonomy.log_id": text(base["log_id"]),
    }
    return [record(resource, base["node_id"], frame, line) for frame, line in zip(frames, lines)]


def record(resource, node, frame, line):
    kind, seq, h = frame["kind"], frame["seq"], frame["h"]
    deny = kind == "decision" and frame["body"]["decision"] == "deny"
    number, name = SEVERITY["error" if kind == "error" else "deny" if deny else "else"]
    return {
        "resource": resource,
        "attributes": {
            "autonomy.event_id": text(f"{node}:wal:{seq}:{h[:16]}"),
            "autonomy.seq": ("int_value", seq),
            "autonomy.kind": text(kind),
            "autonomy.audit_id": text(frame["audit_id"]),
            "autonomy.h": text(h),
        },
        "time": nanoseconds(frame["ts"]),
        "trace_id": frame["trace_id"],
        "span_id": frame["span_id"],
        "severity_number": number,
        "severity_text": name,
        # The very bytes of the frame, not JSON that means the same. The line lacks only its line feed here.
        "body": text(line[line.index(b'"body":') + 7 : 1 - TAIL].decode()),
    }


def received(resource_logs):
    """The records in OTLP's ResourceLogs."""
    return [
        {
            "resource": named(block.resource.attributes),
            "attributes": named(one.attributes),
            "time": one.time_unix_nano,
            "trace_id": one.trace_id.hex(),
            "span_id": one.span_id.hex(),
            "severity_number": one.severity_number,
            "severity_text": one.severity_text,
            "body": typed(one.body),
        }
        for block in resource_logs
        for scope in block.scope_logs
        for one in scope.log_records
    ]


def typed(value):
    which = value.WhichOneof("value")
    return which, getattr(value, which) if which else None


def named(attributes):
    check(len({a.key for a in attributes}) == len(attributes), f"an attribute given twice: {attributes}")
    return {a.key: typed(a.value) for a in attributes}


def event_id(one):
    return one["attributes"].get("autonomy.event_id", (None, None))[1]


def differences(wanted, found):
    """What is missing, unknown, there twice, or not as the log has it; one line each."""
    wanted_ids, found_ids = Counter(map(event_id, wanted)), Counter(map(event_id, found))
    lines = [f"{i}: {n} in the log, {found_ids[i]} received" for i, n in wanted_ids.items() if found_ids[i] != n]
    lines += [f"{i}: not in the log, {n} received" for i, n in found_ids.items() if i not in wanted_ids]
    by_id = {event_id(one): one for one in wanted}
    for one in found:
        should = by_id.get(event_id(one), one)
        for field in should:
            if one[field] != should[field]:
                lines.append(f"{event_id(one)}: {field} is {one[field]!r}, not {should[field]!r}")
    return lines


def leaves(value, path=()):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    else:
        yield path


def changed(value):
    if isinstance(value, tuple):
        return value[0], changed(value[1])
    return value + 1 if isinstance(value, int) else value + "?"


def can_fail(wanted, found):
    """Proves of a comparison that passed that it notices each single change of what it wants. Returns the number."""
    tried = 0
    for n, one in enumerate(wanted):
        others, twins = wanted[:n] + wanted[n + 1 :], []
        for path in leaves(one):
            twin = copy.deepcopy(one)
            inner = twin
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = changed(inner[path[-1]])
            twins.append((twin, path))
            if path[0] in ("resource", "attributes"):
                lacking = copy.deepcopy(one)
                del lacking[path[0]][path[1]]
                twins.append((lacking, ("without", *path)))
        for twin, path in twins:
            check(differences([*others, twin], found), f"the comparison does not notice {path} of {event_id(one)}")
        for others in (others, [*wanted, one]):
            check(differences(others, found), f"the comparison does not count {event_id(one)}")
        tried += len(twins) + 2
    return tried
