"""Recomputes the product's formats in Python: the log's chain, policy bundles, activation and history, canonical JSON, locks,
fingerprints of hosts, the chain of epochs, manifests.

    formats.py fixtures golden/fixtures     the committed bytes
    formats.py live STATE_ROOT              what a runtime left behind
    formats.py edge STATE_ROOT              what `edged precheck` left behind, and the manifest's signature
"""

import gzip
import hashlib
import io
import json
import pathlib
import shlex
import struct
import sys
import tarfile

import rfc8785
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

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


IDENTITY = {"BUILD_ID", "ID", "ID_LIKE", "IMAGE_ID", "IMAGE_VERSION", "VARIANT_ID", "VERSION_CODENAME", "VERSION_ID"}


def os_release(text):
    fields = {}
    for line in text.splitlines():
        key, equals, value = line.strip().partition("=")
        if equals and key in IDENTITY:
            fields[key] = (shlex.split(value, comments=False) or [""])[0]
    return fields


def composite(components):
    return blake3(rfc8785.dumps(components)).hexdigest()


def hosts(folder):
    told = dict(line.split(" ") for line in entries(folder / "fingerprints.txt"))
    for line in entries(folder / "hosts.txt"):
        name, kernel, machine, libc, file, extra = (field.strip() for field in line.split("|"))
        files = dict(item.split("=") for item in extra.split())
        components = {
            "kernel": kernel,
            "machine": machine,
            "libc": libc,
            "os_release": os_release((folder / "in" / file).read_text()),
            "files": {path: None if h == "absent" else f"blake3:{h}" for path, h in files.items()},
        }
        check((folder / f"{name}.canonical").read_bytes() == rfc8785.dumps(components), f"the components of {name}")
        check(told.pop(name) == composite(components), f"the fingerprint of {name}")
    check(not told, f"fingerprints of no host: {told}")


def epochs(path):
    """Walks a chain of epochs; returns its lines."""
    prev, lines = blake3(b"autonomy-epoch-v1").hexdigest(), []
    for line in path.read_bytes().splitlines(keepends=True):
        covered, h = split_tail(line)
        entry = json.loads(line)
        check(entry["prev"] == prev and chain(prev, covered) == h == entry["h"], f"h at epoch {entry['epoch']}")
        check(entry["epoch"] == len(lines), f"epoch {entry['epoch']} comes one by one")
        prev = h
        lines.append(entry)
    return lines


def projections(fingerprint, evidence, last):
    check(fingerprint["composite_hash"] == last["new_hash"], "the fingerprint is the chain's")
    check(composite(fingerprint["components"]) == fingerprint["composite_hash"], "the components give the fingerprint")
    check(fingerprint["boot_epoch"] == evidence["epoch"] == last["epoch"], "the epoch is the chain's")
    for name in ("previous_hash", "new_hash"):
        check(evidence[name] == last[name], f"{name} of the evidence")
    check(evidence["rotated_at"] == last["at"], "rotated_at of the evidence")


def edge(root):
    last = epochs(root / "epoch" / "chain.jsonl")[-1]
    evidence = json.loads((root / "epoch" / "current" / "evidence.json").read_bytes())
    projections(json.loads((root / "bootstrap" / "os_fingerprint.json").read_bytes()), evidence, last)
    check(json.loads((root / "bootstrap" / "precheck.json").read_bytes())["exit"] == 0, "the marker")
    text = (root / "runtime" / "manifest.json").read_bytes()
    key = Ed25519PublicKey.from_public_bytes((root / "identity" / "manifest-verify.pub").read_bytes())
    key.verify((root / "runtime" / "manifest.json.sig").read_bytes(), text)
    manifest = json.loads(text)
    check(manifest["version"] == last["manifest_version"], "the manifest's version is the chain's")
    copies = [op for op in manifest["operations"] if op["op"] == "copy_binary"]
    check(copies, "the manifest copies something")
    for op in copies:
        installed = (root / op["destination"]).read_bytes()
        check("blake3:" + blake3(installed).hexdigest() == op["blake3"], op["destination"])
        check((root / op["destination"]).stat().st_mode & 0o7777 == int(op["mode"], 8), f"the mode of {op['destination']}")
        if op["destination"] == manifest["binary_path"]:
            check(evidence["binary_hash"] == op["blake3"], "binary_hash of the evidence")


def sign(root):
    """A key pair of Python's own, and its signature over the manifest."""
    key = Ed25519PrivateKey.generate()
    (root / "identity" / "manifest-verify.pub").write_bytes(key.public_key().public_bytes_raw())
    (root / "runtime" / "manifest.json.sig").write_bytes(key.sign((root / "runtime" / "manifest.json").read_bytes()))


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
    hosts(folder / "edge")
    evidence = json.loads((folder / "edge" / "evidence.json").read_bytes())
    last = epochs(folder / "edge" / "chain.jsonl")[-1]
    projections(json.loads((folder / "edge" / "os_fingerprint.json").read_bytes()), evidence, last)
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
    {"fixtures": fixtures, "live": live, "edge": edge, "sign": sign}[what](pathlib.Path(folder))
    print(f"interop: formats, {what}: {passed} passed, 0 failed")
