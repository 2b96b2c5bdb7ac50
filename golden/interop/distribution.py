"""What a registry of the OCI distribution-spec 1.1 does, asked of one that runs. Written from the specification's text.

    distribution.py http://HOST:PORT [NAME]

Each check pushes what it needs into a repository of its own beneath NAME and judges the answers; none relies on another. The
specification leaves deletion to the registry: checks that want it on or off are run where it is so. `supply.py` runs all of
them over its registries. By itself this file runs them against one that has deletion on, and ends with 0 if all passed.
"""

import contextlib
import hashlib
import http.client
import http.server
import json
import re
import sys
import threading
import time
import urllib.parse

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
OCTETS = "application/octet-stream"
CODES = frozenset(
    "BLOB_UNKNOWN BLOB_UPLOAD_INVALID BLOB_UPLOAD_UNKNOWN DIGEST_INVALID MANIFEST_BLOB_UNKNOWN MANIFEST_INVALID"
    " MANIFEST_UNKNOWN NAME_INVALID NAME_UNKNOWN SIZE_INVALID UNAUTHORIZED DENIED UNSUPPORTED TOOMANYREQUESTS".split()
)
NOWHERE = "sha256:" + "0" * 64
# Codes beyond the specification's table that registries have from the document that it was made of.
OLDER_CODES = frozenset("TAG_INVALID MANIFEST_UNVERIFIED RANGE_INVALID UNKNOWN UNAVAILABLE PAGINATION_NUMBER_INVALID".split())

NO_REFERRERS = "Debian's 2.8 is older than the Referrers API"
NO_PAGES = "it has n and last for the catalog alone, from 3.0 on for tags too"
FROM_THE_DISK = "tags come as its folders are listed, without order"
NO_LIST = "an empty list is null, which an image index does not allow"
# What others do not do, and why: by the registry's name, then by the check's. What is on the list must fail.
KNOWN = {
    "docker-registry": {
        "part-behind-the-end": "its 416 says the blob's length and ends without these bytes",
        "chunk-behind-a-gap": "it does not look at the Content-Range of a chunk",
        "chunks-out-of-order": "it does not look at the Content-Range of a chunk",
        "subject": NO_REFERRERS,
        "all-tags": FROM_THE_DISK,
        "tags-of-any-case": FROM_THE_DISK,
        "pages-of-tags": NO_PAGES,
        "no-tags": NO_PAGES,
        "tags-after": NO_PAGES,
        "no-referrers": NO_REFERRERS,
        "referrers-of-no-digest": NO_REFERRERS,
        "referrers": NO_REFERRERS,
        "referrers-of-a-type": NO_REFERRERS,
        "referrers-to-come": NO_REFERRERS,
        "referrers-elsewhere": NO_REFERRERS,
        "delete-tag": "it deletes manifests by digest alone, and says 400, which the specification allows",
        "delete-referrer": NO_REFERRERS,
    },
    "ociregistry": {
        "parts": "it has no ranges that are counted from the end",
        "part-behind-the-end": "it answers 206 with nothing",
        "cancel": "sessions cannot be cancelled, which 1.1 does not ask for",
        "mount-of-nothing": "a mount of nothing is 404 there, where the specification says that 202 should be",
        "no-manifest": "it answers 500 to what is no manifest",
        "manifest-without-blobs": "it answers 500 to a manifest without its blobs",
        "tags-of-any-case": "upper case comes before lower case",
        "no-tags": "n=0 lists all",
        "no-referrers": NO_LIST,
        "referrers-of-a-type": NO_LIST,
        "referrers-elsewhere": NO_LIST,
        "delete-manifest": "the tags of a manifest that is deleted stay listed",
    },
}


class Wrong(Exception):
    """An answer that the specification does not allow, in words."""


class Reply:
    """Status, headers and body; what was asked is kept for the words of a complaint."""

    def __init__(self, asked, status, headers, body):
        self.asked, self.status, self.headers, self.body = asked, status, headers, body

    def header(self, name):
        value = self.headers[name]
        self.must(value is not None, f"no {name}")
        return value

    def must(self, holds, complaint):
        if not holds:
            raise Wrong(f"{self.asked}: {complaint}; {self.status} {dict(self.headers)} {self.body[:300]!r}")

    def was(self, *statuses):
        self.must(self.status in statuses, f"not {' or '.join(map(str, statuses))}")
        return self

    def has(self, **headers):
        """These headers with these values; `_` stands for `-`."""
        for name, value in headers.items():
            name = name.replace("_", "-")
            self.must(self.headers[name] == str(value), f"{name} is not {value}")
        return self

    def refused(self, *codes):
        """The body is the specification's JSON, and names one of these codes."""
        try:
            errors = json.loads(self.body)["errors"]
            found = [error["code"] for error in errors]
        except (ValueError, KeyError, TypeError):
            raise Wrong(f"{self.asked}: no error in JSON; {self.status} {self.body[:300]!r}") from None
        self.must(found and set(found) <= CODES | OLDER_CODES, "a code that is not in the table")
        self.must(any(code in codes for code in found), f"no {' or '.join(codes)}")
        return self


class Place:
    """A repository of the registry that is asked, for one check alone."""

    def __init__(self, host, name):
        self.host, self.name = host, name

    def beside(self, name):
        return Place(self.host, f"{self.name}-{name}")

    def ask(self, method, where, body=None, query=None, chunked=False, **headers):
        """`where` is a location, or a path beneath this repository."""
        url = urllib.parse.urlsplit(where if where.startswith(("/", "http:")) else f"/v2/{self.name}/{where}")
        queries = [url.query] * bool(url.query) + [urllib.parse.urlencode(query or {})] * bool(query)
        target = url.path + ("?" + "&".join(queries) if queries else "")
        named = {name.replace("_", "-"): str(value) for name, value in headers.items()}
        connection = http.client.HTTPConnection(url.netloc or self.host, timeout=30)
        try:
            if chunked:
                pieces = (body[at : at + 1000] for at in range(0, len(body), 1000))
                connection.request(method, target, pieces, {"Transfer-Encoding": "chunked", **named}, encode_chunked=True)
            else:
                connection.request(method, target, body, named)
            answer = connection.getresponse()
            return Reply(f"{method} {target}", answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def get(self, where, **more):
        return self.ask("GET", where, **more)

    def session(self):
        return self.ask("POST", "blobs/uploads/", b"").was(202).header("Location")

    def put(self, location, digest, body=b"", **headers):
        kind = {"Content_Type": OCTETS} if body else {}
        return self.ask("PUT", location, body, {"digest": digest}, **kind, **headers)

    def patch(self, location, body, first=None, **more):
        if first is not None:
            more["Content_Range"] = f"{first}-{first + len(body) - 1}"
        return self.ask("PATCH", location, body, Content_Type=OCTETS, **more)

    def blob(self, body):
        """Pushes a blob; its digest."""
        self.put(self.session(), digest_of(body), body).was(201)
        return digest_of(body)

    def holds(self, digest, body):
        reply = self.get(f"blobs/{digest}").was(200)
        reply.must(reply.body == body, "other bytes than were pushed")

    def put_manifest(self, reference, manifest, kind=MANIFEST):
        return self.ask("PUT", f"manifests/{reference}", manifest, Content_Type=kind)

    def manifest(self, reference, **more):
        return self.get(f"manifests/{reference}", Accept=f"{MANIFEST}, {INDEX}", **more)

    def image(self, tag, layer=b"a layer", **more):
        """Pushes an image with one layer; its bytes."""
        manifest = image(layer, **more)
        self.blob(b"{}")
        self.blob(layer)
        self.put_manifest(tag or digest_of(manifest), manifest).was(201)
        return manifest

    def gone(self, *wheres):
        for where in wheres:
            self.get(where, Accept=f"{MANIFEST}, {INDEX}").was(404)

    def referrers(self, digest, query=None):
        reply = self.get(f"referrers/{digest}", query=query).was(200).has(Content_Type=INDEX)
        index = json.loads(reply.body)
        reply.must(index.get("schemaVersion") == 2 and index.get("mediaType") == INDEX, "no image index")
        reply.must(isinstance(index.get("manifests"), list), "no list of manifests")
        return reply, {one["digest"]: one for one in index["manifests"]}


def digest_of(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def bytes_of(value):
    # Two spaces where nobody else would put any: what is stored is what came.
    return json.dumps(value, indent=2).encode()


def descriptor(data, kind, **more):
    return {"mediaType": kind, "digest": digest_of(data), "size": len(data), **more}


def image(*layers, config=EMPTY, **more):
    layers = [descriptor(layer, "application/vnd.oci.image.layer.v1.tar") for layer in layers]
    config = descriptor(b"{}", config)
    return bytes_of({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers, **more})


def index(*manifests, **more):
    listed = [descriptor(one, MANIFEST) for one in manifests]
    return bytes_of({"schemaVersion": 2, "mediaType": INDEX, "manifests": listed, **more})


class Check:
    def __init__(self, group, label, deletes, run):
        self.group, self.label, self.deletes, self.run = group, label, deletes, run
        self.name = run.__name__.replace("_", "-")

    def over(self, host, beneath):
        """Runs it in a repository of its own; raises `Wrong`."""
        try:
            self.run(Place(host, f"{beneath}/{self.name}"))
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as broken:
            raise Wrong(f"{type(broken).__name__}: {broken}") from broken


CHECKS = []


def check(group, label, deletes=None):
    def add(run):
        CHECKS.append(Check(group, label, deletes, run))
        return run

    return add


# Pull.


@check("pull", "GET /v2/ is answered")
def greeting(place):
    place.get("/v2/").was(200)


@check("pull", "a blob: GET and HEAD give bytes, length and digest")
def blob(place):
    body = b"a blob" * 1000
    digest = place.blob(body)
    place.holds(digest, body)
    for method, got in (("GET", body), ("HEAD", b"")):
        reply = place.ask(method, f"blobs/{digest}").was(200).has(Content_Length=len(body), Docker_Content_Digest=digest)
        reply.must(reply.body == got, "other bytes")


@check("pull", "an unknown blob: 404, BLOB_UNKNOWN")
def unknown_blob(place):
    place.blob(b"another")
    place.get(f"blobs/{NOWHERE}").was(404).refused("BLOB_UNKNOWN")
    place.ask("HEAD", f"blobs/{NOWHERE}").was(404)


@check("pull", "a blob of another repository: 404")
def blob_elsewhere(place):
    digest = place.beside("other").blob(b"a blob of the other alone")
    place.blob(b"mine")
    place.gone(f"blobs/{digest}")
    place.ask("HEAD", f"blobs/{digest}").was(404)


@check("pull", "a part of a blob: 206 with Content-Range")
def parts(place):
    body = bytes(range(256)) * 8
    digest = place.blob(body)
    for wanted, first, last in (("2-5", 2, 5), ("2000-", 2000, 2047), ("-10", 2038, 2047), ("2040-9999", 2040, 2047)):
        reply = place.get(f"blobs/{digest}", Range=f"bytes={wanted}").was(206)
        reply.has(Content_Range=f"bytes {first}-{last}/{len(body)}", Content_Length=last - first + 1)
        reply.must(reply.body == body[first : last + 1], "other bytes")


@check("pull", "a part behind the end: 416")
def part_behind_the_end(place):
    body = b"short"
    digest = place.blob(body)
    place.get(f"blobs/{digest}", Range="bytes=5-9").was(416)
    place.holds(digest, body)


@check("pull", "a manifest, by tag and by digest: its bytes, type and digest")
def manifest(place):
    body = place.image("v1")
    digest = digest_of(body)
    for reference in ("v1", digest):
        reply = place.manifest(reference).was(200).has(Docker_Content_Digest=digest, Content_Type=MANIFEST)
        reply.must(reply.body == body, "other bytes than were pushed")


@check("pull", "HEAD of a manifest, by tag and by digest")
def manifest_head(place):
    body = place.image("v1")
    for reference in ("v1", digest_of(body)):
        reply = place.ask("HEAD", f"manifests/{reference}", Accept=MANIFEST).was(200)
        reply.has(Docker_Content_Digest=digest_of(body), Content_Length=len(body), Content_Type=MANIFEST)


@check("pull", "an unknown manifest: 404, MANIFEST_UNKNOWN")
def unknown_manifest(place):
    place.image("v1")
    for reference in ("v2", NOWHERE):
        place.manifest(reference).was(404).refused("MANIFEST_UNKNOWN")
        place.ask("HEAD", f"manifests/{reference}").was(404)


@check("pull", "an unknown repository: 404")
def unknown_repository(place):
    place.manifest("v1").was(404).refused("NAME_UNKNOWN", "MANIFEST_UNKNOWN")
    place.gone(f"manifests/{NOWHERE}", f"blobs/{NOWHERE}")


@check("pull", "a name, tag or digest that is none: refused in JSON")
def no_names(place):
    place.image("v1")
    place.get("blobs/sha256:0").was(400, 404).refused("DIGEST_INVALID", "BLOB_UNKNOWN")
    place.get("manifests/.v1").was(400, 404)
    place.get("/v2/UPPER/manifests/v1").was(400, 404)


# Push.


@check("push a blob", "POST, then PUT")
def post_then_put(place):
    for body in (b"a blob", b"x" * 300_000, b""):
        location = place.session()
        reply = place.put(location, digest_of(body), body).was(201)
        got = place.get(reply.header("Location")).was(200)
        got.must(got.body == body, "the location that PUT names gives other bytes")
        place.holds(digest_of(body), body)


@check("push a blob", "a single POST: 201, or 202 and a session")
def single_post(place):
    body = b"in one go"
    reply = place.ask("POST", "blobs/uploads/", body, {"digest": digest_of(body)}, Content_Type=OCTETS).was(201, 202)
    if reply.status == 202:
        reply = place.put(reply.header("Location"), digest_of(body), body).was(201)
    got = place.get(reply.header("Location")).was(200)
    got.must(got.body == body, "other bytes")


@check("push a blob", "other bytes than the digest says: 400, and nothing is there")
def other_bytes(place):
    digest = digest_of(b"promised")
    place.put(place.session(), digest, b"another").was(400).refused("DIGEST_INVALID")
    location = place.patch(place.session(), b"another").was(202).header("Location")
    place.put(location, digest).was(400).refused("DIGEST_INVALID")
    place.gone(f"blobs/{digest}", f"blobs/{digest_of(b'another')}")


@check("push a blob", "a digest that is none: 400")
def no_digest(place):
    for digest in ("sha256:0", "sha256", "md5:" + "0" * 32, "sha256:" + "x" * 64):
        place.put(place.session(), digest, b"bytes").was(400).refused("DIGEST_INVALID", "UNSUPPORTED")


@check("push a blob", "a stream without ranges: PATCH, then PUT")
def stream(place):
    body = b"streamed" * 2000
    reply = place.patch(place.session(), body, chunked=True).was(202).has(Range=f"0-{len(body) - 1}")
    place.put(reply.header("Location"), digest_of(body)).was(201)
    place.holds(digest_of(body), body)


@check("push a blob", "chunks in order: 202 with Location and Range")
def chunks(place):
    body = bytes(range(256)) * 40
    location = place.session()
    for first, last in ((0, 4000), (4000, 4001), (4001, len(body))):
        reply = place.patch(location, body[first:last], first).was(202).has(Range=f"0-{last - 1}")
        location = reply.header("Location")
    got = place.get(place.put(location, digest_of(body)).was(201).header("Location")).was(200)
    got.must(got.body == body, "other bytes")


@check("push a blob", "the last chunk comes with the closing PUT")
def chunk_in_put(place):
    body = b"the first half, the second half"
    location = place.patch(place.session(), body[:15], 0).was(202).header("Location")
    place.put(location, digest_of(body), body[15:], Content_Range=f"15-{len(body) - 1}").was(201)
    place.holds(digest_of(body), body)


@check("push a blob", "a first chunk that is not the first: 416")
def chunk_behind_a_gap(place):
    location = place.session()
    place.patch(location, b"later", 5).was(416)
    body = b"from the beginning"
    place.put(place.patch(location, body, 0).was(202).header("Location"), digest_of(body)).was(201)


@check("push a blob", "a gap, or a chunk again: 416, and the session goes on")
def chunks_out_of_order(place):
    location = place.patch(place.session(), b"first", 0).was(202).header("Location")
    place.patch(location, b"gap", 6).was(416)
    place.patch(location, b"first", 0).was(416)
    status = place.get(location).was(204).has(Range="0-4")
    location = place.patch(status.header("Location"), b"later", 5).was(202).has(Range="0-9").header("Location")
    place.put(location, digest_of(b"firstlater")).was(201)
    place.holds(digest_of(b"firstlater"), b"firstlater")


@check("push a blob", "a session's status: 204 with Location and Range")
def status(place):
    reply = place.patch(place.session(), b"some", 0).was(202)
    told = place.get(reply.header("Location")).was(204).has(Range="0-3")
    place.put(told.header("Location"), digest_of(b"some")).was(201)


@check("push a blob", "a session that is cancelled or closed: 404")
def cancel(place):
    location = place.session()
    place.ask("DELETE", location).was(204)
    place.get(location).was(404).refused("BLOB_UPLOAD_UNKNOWN")
    closed = place.session()
    place.put(closed, digest_of(b"done"), b"done").was(201)
    for method in ("GET", "DELETE"):
        place.ask(method, closed).was(404).refused("BLOB_UPLOAD_UNKNOWN")
    place.patch(closed, b"more", 0).was(404)


@check("push a blob", "mount from another repository: 201, pullable")
def mount(place):
    other = place.beside("other")
    digest = other.blob(b"a blob to mount")
    reply = place.ask("POST", "blobs/uploads/", b"", {"mount": digest, "from": other.name}).was(201)
    got = place.get(reply.header("Location")).was(200)
    got.must(got.body == b"a blob to mount", "other bytes")
    place.holds(digest, b"a blob to mount")


@check("push a blob", "mount of what is not there: 202 and a session")
def mount_of_nothing(place):
    other = place.beside("other")
    other.blob(b"another blob")
    for query in ({"mount": NOWHERE, "from": other.name}, {"mount": NOWHERE, "from": f"{place.name}-unknown"}):
        reply = place.ask("POST", "blobs/uploads/", b"", query).was(202)
        body = query["from"].encode()
        place.put(reply.header("Location"), digest_of(body), body).was(201)


@check("push a blob", "mount without saying from where: 201, or 202 and a session")
def mount_from_anywhere(place):
    digest = place.beside("other").blob(b"somewhere")
    reply = place.ask("POST", "blobs/uploads/", b"", {"mount": digest}).was(201, 202)
    if reply.status == 202:
        place.put(reply.header("Location"), digest, b"somewhere").was(201)
    place.holds(digest, b"somewhere")


@check("push a manifest", "by tag and by digest: 201 with Location, pullable")
def push_manifest(place):
    body = place.image("v1")
    other = image(b"a layer", annotations={"another": "one"})
    for reference, pushed in (("v1", body), ("v2", other), (digest_of(other), other)):
        reply = place.put_manifest(reference, pushed).was(201).has(Docker_Content_Digest=digest_of(pushed))
        got = place.get(reply.header("Location"), Accept=MANIFEST).was(200)
        got.must(got.body == pushed, "the location that PUT names gives other bytes")


@check("push a manifest", "under another digest than its own: 400")
def manifest_of_another_digest(place):
    place.image("v1")
    body = image(b"a layer", annotations={"another": "one"})
    place.put_manifest(digest_of(b"another"), body).was(400).refused("DIGEST_INVALID")
    place.gone(f"manifests/{digest_of(b'another')}", f"manifests/{digest_of(body)}")


@check("push a manifest", "a tag that was there moves")
def tag_moves(place):
    first = place.image("v1")
    second = place.image("v1", b"another layer")
    got = place.manifest("v1").was(200)
    got.must(got.body == second, "the tag is where it was")
    place.manifest(digest_of(first)).was(200)


@check("push a manifest", "what is none: refused as MANIFEST_INVALID")
def no_manifest(place):
    place.image("v1")
    for body in (b"", b"no JSON", b"[]"):
        place.put_manifest("bad", body).was(400).refused("MANIFEST_INVALID")
    place.gone("manifests/bad")


@check("push a manifest", "without its blobs: 201, or MANIFEST_BLOB_UNKNOWN")
def manifest_without_blobs(place):
    place.blob(b"{}")
    reply = place.put_manifest("v1", image(b"never pushed")).was(201, 400, 404)
    if reply.status != 201:
        reply.refused("MANIFEST_BLOB_UNKNOWN")


@check("push a manifest", "without layers, with an artifact's types, and an index")
def kinds_of_manifests(place):
    plain = place.image("v1")
    for body in (image(), image(b"a layer", artifactType="application/vnd.example.sbom"), image(config="application/vnd.x")):
        place.put_manifest(digest_of(body), body).was(201)
    all_of_them = index(plain)
    place.put_manifest("all", all_of_them, INDEX).was(201)
    got = place.manifest("all").was(200).has(Content_Type=INDEX)
    got.must(got.body == all_of_them, "other bytes")


@check("push a manifest", "parameters of its Content-Type do not count")
def parameters(place):
    body = place.image("v1")
    place.put_manifest("v2", body, f"{MANIFEST}; charset=utf-8").was(201)
    got = place.manifest("v2").was(200)
    got.must(got.headers.get_content_type() == MANIFEST and got.body == body, "another manifest")


@check("push a manifest", "of 4 MiB")
def large_manifest(place):
    place.image("v1")
    body = image(b"a layer", annotations={"long": ""})
    body = body.replace(b'"long": ""', b'"long": "' + b"x" * ((4 << 20) - len(body)) + b'"')
    place.put_manifest("large", body).was(201)
    got = place.manifest("large").was(200)
    got.must(len(body) == 4 << 20 and got.body == body, "other bytes")


@check("push a manifest", "with a subject, there or not: 201 with OCI-Subject")
def subject(place):
    there = place.image("v1")
    for number, one in enumerate((there, b"a manifest that comes later")):
        body = image(b"a layer", subject=descriptor(one, MANIFEST))
        place.put_manifest(f"on-{number}", body).was(201).has(OCI_Subject=digest_of(one))


@check("push a manifest", "with a subject that is not there: 201")
def subject_to_come(place):
    place.image("v1")
    place.put_manifest("early", image(b"a layer", subject=descriptor(b"to come", MANIFEST))).was(201)


# Content discovery.

# "in lexical order (i.e. case-insensitive alphanumeric order)"
TAGS = ["alpha", "Beta", "delta", "gamma", "Omega", "v1", "v10", "v2", "v20", "v3", "zeta"]
LOWER = [tag for tag in TAGS if tag.islower()]


def tagged(place, tags):
    """Pushes an image under these tags, in an order that is none."""
    body = place.image(None)
    for tag in sorted(tags, key=lambda tag: digest_of(tag.encode())):
        place.put_manifest(tag, body).was(201)


def tags(place, **query):
    reply = place.get("tags/list", query={name: str(value) for name, value in query.items()}).was(200)
    told = json.loads(reply.body)
    reply.must(told.get("name") == place.name, "the repository's name is another")
    # An empty list may be null to those who write Go.
    return reply, told.get("tags") or []


def next_of(reply):
    """Where the `Link` leads, if there is one."""
    link = reply.headers["Link"]
    if link is None:
        return None
    found = re.fullmatch(r'<([^>]+)>; *rel="?next"?', link)
    reply.must(found, "a Link that is none of rel=next")
    return urllib.parse.urljoin(f"/v2/{reply.asked.split()[1].removeprefix('/v2/')}", found[1])


@check("tags", "all, in order")
def all_tags(place):
    tagged(place, LOWER)
    reply, told = tags(place)
    reply.must(told == LOWER, f"not {LOWER}")


@check("tags", "upper and lower case among each other")
def tags_of_any_case(place):
    tagged(place, TAGS)
    reply, told = tags(place)
    reply.must(told == TAGS, f"not {TAGS}")


@check("tags", "of an unknown repository: 404, NAME_UNKNOWN")
def tags_of_nothing(place):
    place.get("tags/list").was(404).refused("NAME_UNKNOWN")


@check("tags", "n at a time: all of them once, by Link or by last")
def pages_of_tags(place):
    tagged(place, LOWER)
    for size in (1, 2, 4, len(LOWER), 100):
        found = []
        reply, told = tags(place, n=size)
        for _ in range(len(LOWER) + 1):
            reply.must(len(told) <= size and not set(told) & set(found), "too many, or again")
            found += told
            where = next_of(reply)
            reply.must(len(told) == size or len(found) == len(LOWER) or where, "fewer than asked for, and no Link")
            if len(told) < size and where is None:
                break
            reply = place.get(where).was(200) if where else tags(place, n=size, last=found[-1])[0]
            told = json.loads(reply.body).get("tags") or []
        reply.must(found == LOWER, f"{size} at a time: {found}")


@check("tags", "n=0: none, and no Link")
def no_tags(place):
    tagged(place, TAGS)
    reply, told = tags(place, n=0)
    reply.must(told == [] and reply.headers["Link"] is None, "not empty, or with a Link")


@check("tags", "last: what comes after it")
def tags_after(place):
    tagged(place, LOWER)
    for query, want in (
        ({"last": "gamma"}, LOWER[3:]),
        ({"last": "gamma", "n": 2}, LOWER[3:5]),
        ({"last": "h"}, LOWER[3:]),
        ({"last": LOWER[-1]}, []),
    ):
        reply, told = tags(place, **query)
        reply.must(told == want, f"not {want}")


@check("referrers", "of what nothing refers to: an empty index")
def no_referrers(place):
    body = place.image("v1")
    for digest in (digest_of(body), NOWHERE):
        reply, found = place.referrers(digest)
        reply.must(found == {}, "not empty")


@check("referrers", "a digest that is none: 400")
def referrers_of_no_digest(place):
    place.image("v1")
    place.get("referrers/sha256:0").was(400)
    place.get("referrers/v1").was(400)


def refer(place):
    """A subject with three referrers: of an artifact's type, of its configuration's, and an index."""
    subject = place.image("v1")
    at = descriptor(subject, MANIFEST)
    typed = image(b"a layer", artifactType="application/vnd.example.sbom+json", subject=at, annotations={"by": "a check"})
    plain = image(b"a layer", config="application/vnd.example.config", subject=at)
    whole = index(subject, subject=at, annotations={"kind": "index"})
    place.put_manifest(digest_of(typed), typed).was(201)
    place.put_manifest("plain", plain).was(201)
    place.put_manifest(digest_of(whole), whole, INDEX).was(201)
    return subject, typed, plain, whole


@check("referrers", "each with its media type, size, artifactType and annotations")
def referrers(place):
    subject, typed, plain, whole = refer(place)
    reply, found = place.referrers(digest_of(subject))
    want = {
        digest_of(typed): descriptor(
            typed, MANIFEST, artifactType="application/vnd.example.sbom+json", annotations={"by": "a check"}
        ),
        digest_of(plain): descriptor(plain, MANIFEST, artifactType="application/vnd.example.config"),
        digest_of(whole): descriptor(whole, INDEX, annotations={"kind": "index"}),
    }
    reply.must(found == want, f"not {want}")


@check("referrers", "of one artifactType: OCI-Filters-Applied, and no other")
def referrers_of_a_type(place):
    subject, typed, plain, _ = refer(place)
    for kind, want in (
        ("application/vnd.example.sbom+json", {digest_of(typed)}),
        ("application/vnd.example.config", {digest_of(plain)}),
        ("application/vnd.example.none", set()),
    ):
        reply, found = place.referrers(digest_of(subject), {"artifactType": kind})
        reply.has(OCI_Filters_Applied="artifactType").must(set(found) == want, f"not {want}")


@check("referrers", "before their subject is there")
def referrers_to_come(place):
    place.image("v1")
    later = image(b"a layer", annotations={"comes": "later"})
    body = image(b"a layer", subject=descriptor(later, MANIFEST))
    place.put_manifest("early", body).was(201)
    for _ in range(2):
        reply, found = place.referrers(digest_of(later))
        reply.must(set(found) == {digest_of(body)}, "the referrer is not listed")
        place.put_manifest("later", later).was(201)


@check("referrers", "not those of another repository")
def referrers_elsewhere(place):
    subject, *_ = refer(place.beside("other"))
    place.image("v1")
    reply, found = place.referrers(digest_of(subject))
    reply.must(found == {}, "referrers of another repository")


# Content management.


@check("deletion", "a tag: 202; the manifest stays", deletes=True)
def delete_tag(place):
    body = place.image("v1")
    place.put_manifest("v2", body).was(201)
    place.ask("DELETE", "manifests/v1").was(202)
    place.manifest("v1").was(404).refused("MANIFEST_UNKNOWN")
    place.manifest("v2").was(200)
    place.manifest(digest_of(body)).was(200)
    reply, told = tags(place)
    reply.must(told == ["v2"], "the tag is still listed")


@check("deletion", "a manifest: 202; its tags go too", deletes=True)
def delete_manifest(place):
    body, other = place.image("v1"), place.image("v3", b"another layer")
    place.put_manifest("v2", body).was(201)
    place.ask("DELETE", f"manifests/{digest_of(body)}").was(202)
    place.gone(f"manifests/{digest_of(body)}", "manifests/v1", "manifests/v2")
    got = place.manifest("v3").was(200)
    got.must(got.body == other, "another manifest")
    reply, told = tags(place)
    reply.must(told == ["v3"], "tags of the manifest are still listed")


@check("deletion", "a blob: 202, then 404", deletes=True)
def delete_blob(place):
    digest = place.blob(b"a blob to delete")
    place.ask("DELETE", f"blobs/{digest}").was(202)
    place.gone(f"blobs/{digest}")
    place.ask("HEAD", f"blobs/{digest}").was(404)
    place.ask("DELETE", f"blobs/{digest}").was(404)


@check("deletion", "what is not there: 404", deletes=True)
def delete_nothing(place):
    place.image("v1")
    place.ask("DELETE", f"manifests/{NOWHERE}").was(404).refused("MANIFEST_UNKNOWN")
    place.ask("DELETE", f"blobs/{NOWHERE}").was(404).refused("BLOB_UNKNOWN")
    unknown = place.beside("unknown")
    unknown.ask("DELETE", f"manifests/{NOWHERE}").was(404).refused("MANIFEST_UNKNOWN", "NAME_UNKNOWN")


@check("deletion", "a referrer: no longer listed", deletes=True)
def delete_referrer(place):
    subject, typed, plain, whole = refer(place)
    place.ask("DELETE", f"manifests/{digest_of(typed)}").was(202)
    reply, found = place.referrers(digest_of(subject))
    reply.must(set(found) == {digest_of(plain), digest_of(whole)}, "not the two that are left")
    # A subject may go before what refers to it.
    place.ask("DELETE", f"manifests/{digest_of(subject)}").was(202)
    reply, found = place.referrers(digest_of(subject))
    reply.must(set(found) == {digest_of(plain), digest_of(whole)}, "not the two that are left")


@check("deletion", "switched off: 400 or 405, and everything stays", deletes=False)
def delete_is_off(place):
    body = place.image("v1")
    for where in ("manifests/v1", f"manifests/{digest_of(body)}", f"blobs/{digest_of(b'{}')}"):
        place.ask("DELETE", where).was(400, 405)
    got = place.manifest("v1").was(200)
    got.must(got.body == body, "another manifest")
    place.holds(digest_of(b"{}"), b"{}")


def indifferent(status):
    """A server that answers everything alike: what passes there is no check. Gives the names of those that pass."""

    class Alike(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self):
            if self.rfile.readline():
                self.close_connection = True
                self.wfile.write(
                    f"HTTP/1.1 {status} Alike\r\nlocation: /v2/a\r\nrange: 0-3\r\ncontent-type: application/json\r\n"
                    f"connection: close\r\ncontent-length: 2\r\n\r\n{{}}".encode()
                )

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Alike) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        passed = []
        for one in CHECKS:
            with contextlib.suppress(Wrong):
                one.over(f"127.0.0.1:{server.server_address[1]}", "alike")
                passed.append(one.name)
        server.shutdown()
    return passed


def main():
    url = urllib.parse.urlsplit(sys.argv[1])
    beneath = sys.argv[2] if len(sys.argv) > 2 else f"distribution/run-{int(time.time())}"
    failed = 0
    checks = [one for one in CHECKS if one.deletes is not False]
    for one in checks:
        try:
            one.over(url.netloc, beneath)
            print(f"PASS {one.group}: {one.label}")
        except Wrong as wrong:
            failed += 1
            print(f"FAIL {one.group}: {one.label}: {wrong}")
    print(f"distribution: {len(checks) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
