"""Those who sign images and check signatures beside us: cosign 2 and 3, and the library of skopeo, podman and CRI-O."""

import json
import os
import pathlib
import re
import subprocess
import tempfile
import time

from registries import Wrong

PASSWORD = "interop"
PATIENCE = 120  # seconds that a command may take
SIGNED_AT = "autonomy.signed-at"


def environment(work):
    """No configuration, no credentials and no way out: whoever wants to ask a third party runs into a closed port."""
    nowhere = {name: "http://127.0.0.1:9" for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")}
    direct = {name: "127.0.0.1,localhost" for name in ("NO_PROXY", "no_proxy")}
    home = work / "home"
    home.mkdir(exist_ok=True)
    return {"PATH": os.environ["PATH"], "HOME": str(home), "COSIGN_PASSWORD": PASSWORD, **nowhere, **direct}


class Shell:
    """Runs commands in one environment."""

    def __init__(self, work):
        self.work, self.environment = work, environment(work)

    def run(self, *command, environment=None, patience=PATIENCE):
        try:
            return subprocess.run(
                list(map(str, command)),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=patience,
                env=environment or self.environment,
            )
        except subprocess.TimeoutExpired:
            raise Wrong(f"no end after {patience} s of: {told(command)}") from None

    def must(self, *command, **how):
        """What a command printed; it has to succeed."""
        done = self.run(*command, **how)
        if done.returncode != 0:
            raise Wrong(f"exit {done.returncode} of: {told(command)}\n{said(done)}")
        return done.stdout

    def refuses(self, words, *command):
        """A command has to fail, and to say why in these words (a regular expression)."""
        done = self.run(*command)
        if done.returncode == 0:
            raise Wrong(f"succeeds: {told(command)}")
        if not re.search(words, said(done)):
            raise Wrong(f"fails, but says nothing of {words!r}: {told(command)}\n{said(done)}")


def told(command):
    return " ".join(map(str, command))


def said(done):
    return (done.stdout + done.stderr).strip()[-1500:]


class Cosign:
    """One version of cosign, in one layout. Nothing is uploaded, nothing is fetched but from the registry."""

    dates = True

    def __init__(self, shell, program, major, layout):
        self.shell, self.program, self.major, self.layout = shell, program, major, layout
        self.name = f"cosign {major}, {'bundle' if layout == 'bundle' else '.sig'}"
        self.slug = f"cosign{major}-{layout}"
        self.older = major == 2
        self.root = shell.work / "trusted-root.json"
        self.root.write_text('{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}')
        self.format = [] if self.older else [f"--new-bundle-format={'true' if layout == 'bundle' else 'false'}"]

    def generate(self, prefix):
        self.shell.must(self.program, "generate-key-pair", "--output-key-prefix", prefix)

    def sign(self, image, key, dated):
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        annotations = ["-a", f"{SIGNED_AT}={when}"] if dated else []
        offline = ["--tlog-upload=false", *([] if self.older else ["--use-signing-config=false"]), *self.format]
        plain = ["--allow-http-registry", "-y"]
        self.shell.must(self.program, "sign", "--key", f"{key}.key", *offline, *plain, *annotations, image.pinned)

    def command(self, image, key):
        offline = ["--insecure-ignore-tlog", "--allow-http-registry", *self.format]
        # Where cosign 2.6 finds a bundle it checks that, and then wants sigstore's trusted root, from a file or from the
        # network, though it looks up nothing in it for a key. An empty one will do.
        offline += ["--trusted-root", self.root] * (self.older and image.bundled)
        return [self.program, "verify", "--key", f"{key}.pub", *offline, image.pinned]

    def accepts(self, image, key, signed_as):
        told = json.loads(self.shell.must(*self.command(image, key)))
        if not all(one["critical"]["image"]["docker-manifest-digest"] == image.digest for one in told):
            raise Wrong(f"{self.name} accepts something else: {told}")

    def refuses(self, image, key, signed_as):
        self.shell.refuses("no matching (signatures|attestations)", *self.command(image, key))


class Containers:
    """github.com/containers/image: `sigstoreSigned` in policy.json, and signing while copying. Its signatures are dated, but
    not by the annotation that we want, so that for us they are undated."""

    dates, layout = False, "simple"
    name, slug = "containers/image, .sig", "containers"

    def __init__(self, shell, program):
        self.shell, self.program = shell, program
        self.settings = shell.work / "registries.d"
        self.settings.mkdir(exist_ok=True)
        (self.settings / "default.yaml").write_text("default-docker:\n  use-sigstore-attachments: true\n")

    def sign(self, image, key, dated):
        self.shell.must(self.program, "sign", f"{key}.key", self.settings, f"//{image.tagged}", f"//{image.tagged}")

    def pull(self, how, image, key, signed_as):
        identity = {"type": "exactRepository", "dockerRepository": signed_as.repository_of}
        rule = {"type": "sigstoreSigned", "keyPath": f"{key}.pub", "signedIdentity": identity}
        with tempfile.TemporaryDirectory(dir=self.shell.work) as folder:
            policy = pathlib.Path(folder, "policy.json")
            policy.write_text(json.dumps({"default": [rule]}))
            how(self.program, "pull", policy, self.settings, f"//{image.tagged}", f"{folder}/image")

    def accepts(self, image, key, signed_as):
        self.pull(self.shell.must, image, key, signed_as)

    def refuses(self, image, key, signed_as):
        self.pull(lambda *command: self.shell.refuses("Source image rejected: ", *command), image, key, signed_as)
