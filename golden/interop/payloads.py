"""Our signatures, read and checked from an image layout by Python's cryptography, from the formats' descriptions alone."""

import base64
import json
import time

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from registries import BUNDLE, SIGNATURE, Wrong, digest
from signers import SIGNED_AT


def signed(folder, layout, image, name):
    """The bytes that are signed, and the signature, of the image with this digest, which goes by this name. What the signed
    bytes say is checked here; who signed is not."""
    manifest = signature_manifest(folder, layout, image)
    (layer,) = manifest["layers"]
    blob = blob_of(folder, layer["digest"])
    if layout == "simple":
        message, signature = blob, layer["annotations"][SIGNATURE]
        claim = json.loads(blob)
        critical, annotations = claim["critical"], claim["optional"]
        says = critical["image"]["docker-manifest-digest"], critical["identity"]["docker-reference"]
    else:
        envelope = json.loads(blob)["dsseEnvelope"]
        payload, kind = base64.b64decode(envelope["payload"], validate=True), envelope["payloadType"].encode()
        message = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
        (signature,) = (one["sig"] for one in envelope["signatures"])
        (subject,) = json.loads(payload)["subject"]
        annotations = subject["annotations"]
        says = "sha256:" + subject["digest"]["sha256"], name  # a statement says no name
        if manifest["subject"]["digest"] != image:
            raise Wrong(f"the bundle refers to {manifest['subject']}")
    if says != (image, name) or list(annotations) != [SIGNED_AT]:
        raise Wrong(f"the payload says {says} and {annotations}")
    time.strptime(annotations[SIGNED_AT][:19], "%Y-%m-%dT%H:%M:%S")
    return message, base64.b64decode(signature, validate=True)


def genuine(key, signature, message):
    try:
        load_pem_public_key(key.with_suffix(".pub").read_bytes()).verify(signature, message, ec.ECDSA(SHA256()))
        return True
    except InvalidSignature:
        return False


def blob_of(folder, name):
    data = (folder / "blobs" / name.replace(":", "/")).read_bytes()
    if digest(data) != name:
        raise Wrong(f"blob {name} is {digest(data)}")
    return data


def manifests(folder):
    return json.loads((folder / "index.json").read_bytes())["manifests"]


def signature_manifest(folder, layout, subject):
    tag, ref = subject.replace(":", "-") + ".sig", "org.opencontainers.image.ref.name"
    for descriptor in manifests(folder):
        named = descriptor.get("annotations", {}).get(ref) == tag
        if named if layout == "simple" else descriptor.get("artifactType") == BUNDLE:
            return json.loads(blob_of(folder, descriptor["digest"]))
    raise Wrong(f"no signature of {subject} in the layout {layout}")
