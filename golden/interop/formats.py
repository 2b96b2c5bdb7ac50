"""Recomputes the product's formats in Python: the log's chain, policy bundles, activation and history, canonical JSON, locks.

    formats.py fixtures golden/fixtures     the committed bytes
    formats.py live STATE_ROOT              what a runtime left behind
"""

import gzip
import hashlib
import io
import json
import pathlib
import struct
import sys
import tarfile

import rfc8785
from blake3 import blake3

passed = 0
TAIL = 73


def check(holds, what):
    global passed
    if not holds:
        sys.exit(f"interop: FAILED: {what}")
    passed += 1


def split_tail(line):
    """What `h` covers, and `h`."""
    covered, tail = line[:-TAIL], line[-TAIL:]
    check(tail.startswith(b',"h":"') and tail.endswith(b'"}\n') and len(tail) == TAIL, f"the end of {line!r}")
    return covered, tail[6:70].decode()


def chain(prev, covered):
    return blake3(bytes.fromhex(prev) + covered).hexdigest()


def log(folder):
    """Walks all frames; returns their objects and the head."""
    base = json.loads((folder / "telemetry.base").read_bytes())
    if base["first_seq"] == 1:
        genesis = blake3(b"autonomy-wal-v1" + base["log_id"].encode()).hexdigest()
        check(base["prev_h"] == genesis, "prev_h of telemetry.base")
    prev, seq, frames = base["prev_h"], base["first_seq"], []
    files = sorted(folder.glob("telemetry-*.wal")) + [folder / "telemetry.wal"]
    for file in files:
        data, at = file.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack(">I", data[at : at + 4])
            check(length <= 256 * 1024, f"the length at {file}:{at}")
            line = data[at + 4 : at + 4 + length]
            check(len(line) == length, f"a whole frame at {file}:{at}")
            covered, h = split_tail(line)
            check(chain(prev, covered) == h, f"h at {file}:{at}")
            frame = json.loads(line)
            body = frame["body"]
            lost = body.get("code") == "wal_lost_range" and frame["kind"] == "error"
            check((body["first_lost"] if lost else frame["seq"]) == seq, f"the sequence at {file}:{at}")
            prev = body["bridge_h"] if lost else h
            seq = frame["seq"] + 1
            frames.append(frame)
            at += 4 + length
    safe = struct.unpack("<Q", (folder / "telemetry.safe_seq").read_bytes())[0]
    check(safe < seq, "safe_seq beyond the log")
    return frames, prev


def bundle(packed):
    """The manifest of a bundle whose hash was recomputed."""
    files = {}
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(packed))) as archive:
        for member in archive:
            check(member.isreg() and member.name not in files, f"entry {member.name}")
            files[member.name] = archive.extractfile(member).read()
    manifest = json.loads(files.pop("manifest.json"))
    claimed = manifest.pop("bundle_hash")
    digest = hashlib.sha256()
    for name in sorted(files, key=str.encode):
        for part in (name.encode(), files[name]):
            digest.update(struct.pack("<Q", len(part)) + part)
    # Names are ASCII and numbers are integers, so this is the canonical form of RFC 8785.
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest.update(canonical.encode())
    check(claimed == "sha256:" + digest.hexdigest(), "bundle_hash")
    return manifest, claimed


def history(path):
    prev = blake3(b"autonomy-policy-history-v1").hexdigest()
    for n, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        covered, h = split_tail(line)
        check(chain(prev, covered) == h, f"h at {path}:{n}")
        check(json.loads(line)["n"] == n, f"n at {path}:{n}")
        prev = h


def slot(named, packed):
    manifest, bundle_hash = bundle(packed)
    check(named["bundle"] == "sha256:" + hashlib.sha256(packed).hexdigest(), "the digest in activation.json")
    check(named["bundle_hash"] == bundle_hash, "bundle_hash in activation.json")
    check(named["version"] == manifest["policy_bundle_version"], "version in activation.json")
    check(named["sequence"] == manifest["sequence"], "sequence in activation.json")


def texts(folder):
    """Accepted JSON texts mean to Python what their canonical texts mean."""
    lines = (folder / "results.txt").read_text().splitlines()
    for given, result in zip(lines[::2], lines[1::2]):
        if not result.startswith("  reads as "):
            continue
        value, canonical = json.loads(json.loads(given)), result.removeprefix("  reads as ")
        check(json.loads(canonical) == value, f"{given} and {canonical}")
        if not isinstance(value, float) and "." not in canonical and "e-" not in canonical:
            ours = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            whole = isinstance(value, int) or not isinstance(value, (int, float))
            check(not whole or ours == canonical, f"{ours} and {canonical}")


def entries(path):
    """The lines of a fixture that are neither empty nor a comment."""
    return [line for line in path.read_text().split("\n") if line and not line.startswith("#")]


def canonical(folder):
    """RFC 8785 by another implementation: the vectors, and every document that is taken."""
    lines = entries(folder / "vectors.txt")
    for given, want in zip(lines[::2], lines[1::2], strict=True):
        check(rfc8785.dumps(json.loads(json.loads(given))) == json.loads(want).encode(), f"the canonical form of {given}")
    for line in entries(folder / "numbers.txt"):
        bits, want = line.split(" ")
        (number,) = struct.unpack(">d", bytes.fromhex(bits))
        check(rfc8785.dumps(number) == want.encode(), f"the number {line}")
    lines = entries(folder / "results.txt")
    for given, result in zip(lines[::2], lines[1::2], strict=True):
        if result.startswith("  canonical "):
            ours = rfc8785.dumps(json.loads(json.loads(given)))
            check(ours == result.removeprefix("  canonical ").encode(), f"{given} and {result}")
        else:
            check(result.startswith("  refused: "), result)


def fingerprint(lock):
    """The bytes that a lock's fingerprint is over, the right fingerprint, and whether the lock states it."""
    stated = lock.pop("behavioral_fingerprint")
    hashed = rfc8785.dumps(lock)
    right = "blake3:" + blake3(hashed).hexdigest()
    return hashed, right, stated == right


def locks(folder):
    told = dict(line.split(" ", 1) for line in entries(folder / "fingerprints.txt"))
    for path in sorted((folder / "in").glob("*.json")):
        given = json.loads(path.read_bytes())
        hashed, right, matches = fingerprint(given)
        check((folder / f"{path.stem}.canonical").read_bytes() == hashed, f"the bytes under the fingerprint of {path}")
        check(told.pop(path.stem) == f"{right} {'matches' if matches else 'differs'}", f"the fingerprint of {path}")
        written = (folder / f"{path.stem}.lock.json").read_bytes()
        again = json.loads(written)
        check(written == json.dumps(again, indent=2).encode() + b"\n", f"the layout of {path.stem}.lock.json")
        check(fingerprint(again)[1:] == (right, True) and again == given, f"what {path.stem}.lock.json says")
    check(not told, f"fingerprints of no lock: {told}")
    edited = (folder / "refusals.txt").read_text()
    base = (folder / "full.lock.json").read_text()
    for edit, result in zip(*[iter(edited.splitlines())] * 2, strict=True):
        if "fingerprint" in result and not result.startswith("  refused: "):
            old, new = edit.split(" => ")
            _, right, matches = fingerprint(json.loads(base.replace(old, new)))
            check(not matches and result.endswith(f", {right} is right"), edit)


def fixtures(folder):
    frames, head = log(folder / "wal")
    told = (folder / "wal" / "read-back.txt").read_text()
    check(f"last {frames[-1]['seq']} head {head} " in told, "the head in read-back.txt")
    packed = {}
    for path in sorted((folder / "policy").glob("*.tar.gz")):
        packed[hashlib.sha256(path.read_bytes()).hexdigest()] = path.read_bytes()
        _, bundle_hash = bundle(path.read_bytes())
        check(f"bundle_hash {bundle_hash}\n" in path.with_name(path.name.replace(".tar.gz", ".txt")).read_text(), path)
    for path in sorted((folder / "activation").glob("*.json")):
        activation = json.loads(path.read_bytes())
        for which in ("current", "lkg"):
            if activation[which]:
                slot(activation[which], packed[activation[which]["bundle"].removeprefix("sha256:")])
    history(folder / "activation" / "history.jsonl")
    texts(folder / "json")
    canonical(folder / "canonical")
    locks(folder / "lock")
    template = folder.resolve().parents[1] / "demo" / "locks" / "example.lock.json"
    check(fingerprint(json.loads(template.read_bytes()))[2], f"the fingerprint of {template}")


def live(root):
    frames, _ = log(root / "telemetry")
    allowed = {f["audit_id"] for f in frames if f["kind"] == "decision" and f["body"]["decision"] == "allow"}
    closed = {f["audit_id"] for f in frames if f["kind"] in ("action", "error")}
    check(allowed and allowed <= closed, "every allowed call has its outcome")
    activation = json.loads((root / "activation.json").read_bytes())
    named = activation["current"]
    path = root / "policy" / "bundles" / (named["bundle"].removeprefix("sha256:") + ".tar.gz")
    slot(named, path.read_bytes())
    history(root / "policy" / "history.jsonl")


if __name__ == "__main__":
    what, folder = sys.argv[1:]
    {"fixtures": fixtures, "live": live}[what](pathlib.Path(folder))
    print(f"interop: formats, {what}: {passed} passed, 0 failed")
