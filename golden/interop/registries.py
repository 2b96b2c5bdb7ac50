"""Three registries on loopback, and what the matrix of `supply.py` does to them by hand: reading and placing signatures.

Debian's docker-registry has no Referrers API, so that the tag of referrers must do; CUE's ociregistry and ours have it.
"""

import base64
import contextlib
import hashlib
import json
import re
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

HOST = "127.0.0.1"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIGNATURE = "dev.cosignproject.cosign/signature"
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Wrong(Exception):
    """What did not come out as it must, in words."""


class Registry:
    """A registry that runs; `host` is its address and port."""

    def __init__(self, name, host):
        self.name, self.host = name, host

    def ask(self, method, path, body=None, **headers):
        """Status, headers and body of an answer, whatever the status."""
        url = urllib.parse.urljoin(f"http://{self.host}/v2/", path)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(url, body, named, method=method)
        try:
            with DIRECT.open(request, timeout=30) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as refusal:
            return refusal.code, refusal.headers, refusal.read()

    def must(self, method, path, body=None, **headers):
        status, headers, answer = self.ask(method, path, body, **headers)
        if status not in (200, 201, 202):
            raise Wrong(f"{self.name}: {method} {path}: {status} {answer[:200]!r}")
        return headers, answer

    def manifest(self, repository, name):
        return self.must("GET", f"{repository}/manifests/{name}", Accept=f"{MANIFEST}, {INDEX}")[1]

    def put_manifest(self, repository, name, kind, manifest):
        """Puts it; says whether the registry took note of its subject."""
        headers, _ = self.must("PUT", f"{repository}/manifests/{name}", manifest, Content_Type=kind)
        return "OCI-Subject" in headers

    def put_blob(self, repository, blob):
        headers, _ = self.must("POST", f"{repository}/blobs/uploads/", b"")
        where = headers["Location"]
        where += ("&" if "?" in where else "?") + urllib.parse.urlencode({"digest": digest(blob)})
        self.must("PUT", where, blob, Content_Type="application/octet-stream")

    def holds(self, repository, blob):
        """Whether these very bytes are in the repository, as a blob or as a manifest."""
        for kind in ("blobs", "manifests"):
            status, _, body = self.ask("GET", f"{repository}/{kind}/{digest(blob)}", Accept=f"{MANIFEST}, {INDEX}, */*")
            if status == 200:
                return body == blob
        return False

    def bundle(self, repository, subject):
        """The manifest of the one bundle that refers to a digest, by the Referrers API or by the tag."""
        status, _, body = self.ask("GET", f"{repository}/referrers/{subject}")
        if status == 404:
            body = self.manifest(repository, subject.replace(":", "-"))
        elif status != 200:
            raise Wrong(f"{self.name}: referrers of {subject}: {status} {body[:200]!r}")
        found = [d["digest"] for d in json.loads(body)["manifests"] if d.get("artifactType") == BUNDLE]
        if len(found) != 1:
            raise Wrong(f"{self.name}: {len(found)} bundles refer to {subject}")
        return json.loads(self.manifest(repository, found[0]))

    def place(self, layout, source, target, alter=False):
        """Puts the signature of one image beside another, as it is or with the last byte of it altered. It moves the bytes
        of the signature and nothing else: both images are (repository, digest)."""
        (repository, subject), (to, new_subject) = source, target
        if layout == "simple":
            manifest = json.loads(self.manifest(repository, subject.replace(":", "-") + ".sig"))
            (layer,) = manifest["layers"]
            layer["annotations"][SIGNATURE] = flipped(layer["annotations"][SIGNATURE], alter)
        else:
            manifest = self.bundle(repository, subject)
            (layer,) = manifest["layers"]
        blob = self.must("GET", f"{repository}/blobs/{layer['digest']}")[1]
        if layout == "bundle":
            bundle = json.loads(blob)
            (signature,) = bundle["dsseEnvelope"]["signatures"]
            signature["sig"] = flipped(signature["sig"], alter)
            blob = json.dumps(bundle, separators=(",", ":")).encode() if alter else blob
            layer |= {"digest": digest(blob), "size": len(blob)}
            image = self.manifest(to, new_subject)
            manifest["subject"] = {"mediaType": MANIFEST, "digest": new_subject, "size": len(image)}
        self.put_blob(to, blob)
        self.put_blob(to, self.must("GET", f"{repository}/blobs/{manifest['config']['digest']}")[1])
        written = json.dumps(manifest, separators=(",", ":")).encode()
        tag = new_subject.replace(":", "-")
        name = digest(written) if layout == "bundle" else tag + ".sig"
        if self.put_manifest(to, name, MANIFEST, written) or layout == "simple":
            return
        descriptor = {"mediaType": MANIFEST, "digest": name, "size": len(written), "artifactType": BUNDLE}
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor]}
        self.put_manifest(to, tag, INDEX, json.dumps(index).encode())


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def flipped(signature, alter):
    """A signature in base64 whose last byte, which belongs to `s` and to no length, is another."""
    raw = bytearray(base64.b64decode(signature, validate=True))
    raw[-1] ^= 1 if alter else 0
    return base64.b64encode(raw).decode()


@contextlib.contextmanager
def running(name, command, log, environment, host=None):
    """The registry that a command runs, until the end of the block. Without `host`, it takes a free port and says which."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
    try:
        registry, until = Registry(name, host), time.monotonic() + 30
        while True:
            said = log.read_text(errors="replace")
            if process.poll() is not None or time.monotonic() > until:
                raise Wrong(f"{name} does not start: {said.strip()[-500:]}")
            if registry.host is None and (address := re.search(r"listening on http://(\S+)", said)):
                registry.host = address[1]
            with contextlib.suppress(OSError):
                if registry.host and registry.ask("GET", "")[0] == 200:
                    break
            time.sleep(0.05)
        yield registry
    finally:
        process.kill()
        process.wait()


def free_port():
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def ours(autonomy, work, environment, *options, name="autonomy"):
    command = [autonomy, "oci", "serve", "--listen", f"{HOST}:0", "--dir", work / name, *options]
    return running(name, command, work / f"{name}.log", environment)


def docker_registry(program, work, environment, deletes=False):
    name, host = "docker-registry" + "-deletes" * deletes, f"{HOST}:{free_port()}"
    storage = {"filesystem": {"rootdirectory": str(work / name)}, "delete": {"enabled": deletes}}
    configuration = {"version": "0.1", "log": {"level": "error"}, "storage": storage, "http": {"addr": host}}
    file = work / f"{name}.yaml"
    file.write_text(json.dumps(configuration))  # which is YAML too
    return running(name, [program, "serve", file], work / f"{name}.log", environment, host)


def in_memory(program, work, environment):
    return running("ociregistry", [program], work / "ociregistry.log", environment)
