"""The supply chain beside others, as one table: who signs, who checks, over which registry.

    supply.py AUTONOMY PROGRAMS WORK POLICIES

PROGRAMS is the folder of what Go builds (cosign2, cosign3, containers, registry, the conformance suites). What is not in it
is not run, and that is said. Everything happens on loopback. Exit code 0 if and only if nothing failed.
"""

import concurrent.futures
import contextlib
import os
import pathlib
import shutil
import sys
import tarfile
import time

import distribution
import payloads
import registries
from registries import Wrong, digest
from signers import SIGNED_AT, Containers, Cosign, Shell, said

AGENT, OTHER = b"#!/bin/sh\necho an agent\n" + bytes(300_000), b"#!/bin/sh\necho another\n"
BUILT = ("cosign3", "cosign2", "containers", "registry")
OK, SIGNATURE_ONLY = "verification OK", "verification OK (signature only)"


class NotHere(Exception):
    """What a machine lacks for a row, in words."""


class Known(Exception):
    """Why a registry of others does not do what a row says."""


class Image:
    """An image in a registry."""

    def __init__(self, registry, repository, pinned):
        self.registry, self.repository, self.digest = registry, repository, pinned
        self.repository_of = f"{registry.host}/{repository}"
        self.tagged, self.pinned = f"{self.repository_of}:v1", f"{self.repository_of}@{pinned}"
        self.bundled = False  # whether a sigstore bundle signs it


class Keys:
    """Prefixes of key pairs: `ours` made by us, `theirs` by cosign 3 and `older` by cosign 2 where they are, `others`
    trusted by nobody."""

    def __init__(self, work, autonomy, shell, cosigns):
        self.ours, self.theirs, self.others, self.older = (work / name for name in ("ours", "theirs", "others", "older"))
        cosign = {3: self.theirs, 2: self.older}
        for one in cosigns:
            if one.layout == "simple":
                one.generate(cosign.pop(one.major))
        for prefix in (self.ours, self.others, *cosign.values()):
            shell.must(autonomy, "keys", "generate", "--type", "cosign", "--out", prefix)


class Column:
    """All rows over one registry."""

    def __init__(self, bench, registry):
        self.bench, self.registry, self.cells, self.signed = bench, registry, {}, {}
        self.autonomy, self.shell, self.keys, self.policies = bench.autonomy, bench.shell, bench.keys, bench.policies
        self.work = bench.work / f"column-{registry.name}"
        self.work.mkdir()
        (self.work / "agent").write_bytes(AGENT)
        (self.work / "other").write_bytes(OTHER)

    def run(self, rows):
        for row in rows:
            if self.registry.name not in row.over:
                self.cells[row] = "-"
                continue
            try:
                row.check(self)
                self.cells[row] = "PASS"
            except NotHere as reason:
                self.cells[row] = "not run"
                self.bench.missing.append(str(reason))
            except Known as reason:
                self.cells[row] = "known"
                self.bench.known.setdefault(f"{self.registry.name}: {reason}", []).append(row.label)
            except Exception as wrong:  # whatever it is, it is told, and the other rows are run
                self.cells[row] = "FAIL"
                self.bench.troubles.append((f"{self.registry.name}: {row.group}: {row.label}", words(wrong)))
        return self

    # What we do.

    def ours(self, *command):
        return self.shell.must(self.autonomy, *command)

    def push(self, name, file="agent"):
        """The same file makes the same image, wherever it goes."""
        where = f"{self.registry.host}/interop/{name}:v1"
        told = self.ours("oci", "push", self.work / file, "--to", where, "--platform", "linux/amd64")
        return Image(self.registry, f"interop/{name}", field(told, "digest"))

    def verify(self, where, key, *options):
        state = self.work / "no-state"
        return self.shell.run(
            self.autonomy, "verify", "--image", where, "--pubkey", f"{key}.pub", "--state-root", state, *options
        )

    def passes(self, where, key, *options, end=SIGNATURE_ONLY):
        done = self.verify(where, key, *options)
        steps, told = outcomes(done.stdout)
        right = ["PASS"] * 4 if end == OK else ["PASS", "SKIP", "SKIP", "SKIP"]
        if done.returncode != 0 or steps != right or told != end:
            raise Wrong(f"exit {done.returncode} of autonomy verify {where}\n{done.stdout}{done.stderr}")

    def fails_step_1(self, where, key, *words):
        done = self.verify(where, key)
        steps, told = outcomes(done.stdout)
        right = steps == ["FAIL", "SKIP", "SKIP", "SKIP"] and told == "verification FAILED" and done.returncode == 1
        if not right or not all(word in done.stdout for word in words):
            raise Wrong(f"exit {done.returncode} of autonomy verify {where}, wanted {words}\n{done.stdout}{done.stderr}")

    def placed(self, layout, source, name):
        """The signature of an image: beside the same image elsewhere, beside another image, and altered."""
        images = []
        for what, file, alter in (("same", "agent", False), ("moved", "other", False), ("altered", "agent", True)):
            image = self.push(f"{name}-{what}", file)
            self.registry.place(layout, (source.repository, source.digest), (image.repository, image.digest), alter)
            images.append(image)
        return images

    # They sign, we verify.

    def signed_by(self, signer, dated=True):
        """An image that they signed with our key; signed once, whichever row comes first."""
        name = f"by-{signer.slug}-{'dated' if dated else 'undated'}"
        if name not in self.signed:
            image = self.push(name)
            signer.sign(image, self.keys.ours, dated)
            self.signed[name] = image
        return self.signed[name]

    def we_take(self, signer):
        self.passes(self.signed_by(signer).tagged, self.keys.ours, *undated(signer))

    def we_refuse_another_key(self, signer):
        image = self.signed_by(signer)
        self.fails_step_1(image.tagged, self.keys.others, "no trusted key made it")

    def we_refuse_moved_or_altered(self, signer):
        same, moved, altered = self.placed(signer.layout, self.signed_by(signer), f"from-{signer.slug}")
        self.passes(same.tagged, self.keys.ours, *undated(signer))
        self.fails_step_1(moved.tagged, self.keys.ours, "signature of the image", "counts")
        self.fails_step_1(altered.tagged, self.keys.ours, "no trusted key made it")

    def we_want_a_date(self, signer):
        image = self.signed_by(signer, dated=False)
        says = "autonomy oci sign --image ", f"cosign sign --key FILE -a {SIGNED_AT}="
        self.fails_step_1(image.tagged, self.keys.ours, "does not say when it was made", *says)
        self.passes(image.tagged, self.keys.ours, "--allow-undated")

    # We sign, they verify.

    def signed_for(self, layout, key=None):
        name = f"for-{layout}-{(key or self.keys.theirs).name}"
        if name not in self.signed:
            image = self.push(name)
            self.sign(image.tagged, key or self.keys.theirs, layout)
            image.bundled = layout != "simple"
            self.signed[name] = image
        return self.signed[name]

    def sign(self, where, key, layout="both"):
        self.ours("oci", "sign", "--image", where, "--key", f"{key}.key", "--layout", layout)

    def they_take(self, signer):
        for layout in (signer.layout, "both"):
            image = self.signed_for(layout)
            signer.accepts(image, self.keys.theirs, image)

    def they_refuse_another_key(self, signer):
        image = self.signed_for(signer.layout)
        signer.refuses(image, self.keys.others, image)

    def they_refuse_moved_or_altered(self, signer):
        source = self.signed_for(signer.layout)
        same, moved, altered = self.placed(signer.layout, source, f"to-{signer.slug}")
        signer.accepts(same, self.keys.theirs, source)
        signer.refuses(moved, self.keys.theirs, source)
        signer.refuses(altered, self.keys.theirs, source)

    def older_pair(self, cosign):
        image = self.signed_for("simple", self.keys.older)
        cosign.accepts(image, self.keys.older, image)

    # Releases: lock, policy, archive.

    def release(self, name):
        image = self.push(name)
        bundle, lock = self.work / "policy.tar.gz", self.work / f"{name}.lock.json"
        if not bundle.exists():
            self.ours("policy", "build", "--in", self.policies, "--out", bundle, "--version", "1.0.0")
        draft = ["--name", "agent", "--version", "1.0.0", "--sequence", "7", "--out", lock]
        self.ours("lock", "create", "--image", image.tagged, "--bundle", bundle, *draft)
        lock_attached = self.ours("oci", "attach-lock", "--image", image.tagged, "--lock", lock)
        policy_attached = self.ours("oci", "attach-policy", "--image", image.tagged, "--bundle", bundle)
        # `lock attached to sha256:…: sha256:…`: the second is the manifest of what was attached.
        sidecars = [told.splitlines()[0].rsplit(": ", 1)[1] for told in (lock_attached, policy_attached)]
        return image, [Image(self.registry, image.repository, sidecar) for sidecar in sidecars]

    def our_release(self):
        if "release" not in self.signed:
            image, sidecars = self.release("release")
            self.sign(image.tagged, self.keys.theirs)
            for signed in (image, *sidecars):
                signed.bundled = True
            self.signed["release"] = image, sidecars
        return self.signed["release"]

    def four_steps(self):
        image, _ = self.our_release()
        self.passes(image.tagged, self.keys.theirs, "--require-lock", "--require-policy", end=OK)
        self.fails_step_1(image.tagged, self.keys.others)

    def four_steps_by(self, cosign):
        image, sidecars = self.release(f"release-{cosign.slug}")
        for one in (image, *sidecars):
            cosign.sign(one, self.keys.ours, dated=True)
        self.passes(image.tagged, self.keys.ours, "--require-lock", "--require-policy", end=OK)

    def sidecars_for(self, cosign):
        for sidecar in self.our_release()[1]:
            cosign.accepts(sidecar, self.keys.theirs, sidecar)

    def archive(self):
        image, _ = self.our_release()
        archive = self.work / "site.tar"
        self.ours("bundle", "create", "--image", image.tagged, "--out", archive)
        told = self.ours(
            "bundle", "verify", archive, "--pubkey", f"{self.keys.theirs}.pub", "--state-root", self.work / "no-state"
        )
        if outcomes(told) != (["PASS"] * 4, OK):
            raise Wrong(told)
        self.same_by_skopeo(f"oci-archive:{archive}:v1", image, "from-site")

    # Copies.

    def copies(self):
        image, _ = self.our_release()
        layout, archive = self.work / "layout", self.work / "archive.tar"
        back = f"{self.registry.host}/interop/back:v1"
        way = [image.tagged, f"oci:{layout}:v1", f"oci-archive:{archive}:v1", back]
        for source, target in zip(way, way[1:], strict=False):
            told = self.ours("oci", "copy", source, target)
            if field(told, "digest") != image.digest:
                raise Wrong(f"oci copy {source} {target}: another digest\n{told}")
        for where in way:
            self.passes(where, self.keys.theirs, "--require-lock", "--require-policy", end=OK)
        blobs = {path.name: path.read_bytes() for path in layout.glob("blobs/sha256/*")}
        with tarfile.open(archive) as packed:
            members = [m for m in packed if m.isreg() and m.name.startswith("blobs/sha256/")]
            inside = {m.name.removeprefix("blobs/sha256/"): packed.extractfile(m).read() for m in members}
        if blobs != inside or not blobs:
            raise Wrong(f"the archive and the layout differ in {sorted(set(blobs) ^ set(inside))}")
        # Image, lock and policy; and for each of them a signature in both layouts.
        if len(payloads.manifests(layout)) != 9:
            raise Wrong(f"{len(payloads.manifests(layout))} manifests in the layout")
        for name, blob in blobs.items():
            for repository in (image.repository, "interop/back"):
                if digest(blob) != f"sha256:{name}" or not self.registry.holds(repository, blob):
                    raise Wrong(f"{repository} does not hold {name} of the layout as it is there")

    def skopeo(self, source, target):
        plain = ["--src-tls-verify=false"] * source.startswith("docker://")
        plain += ["--dest-tls-verify=false"] * target.startswith("docker://")
        self.shell.must(self.bench.skopeo, "--insecure-policy", "copy", "--quiet", *plain, source, target)

    def same_by_skopeo(self, source, image, name):
        """skopeo brings the image of a layout or an archive to the registry, and the digest stays."""
        self.skopeo(source, f"docker://{self.registry.host}/interop/{name}:v1")
        there = self.registry.manifest(f"interop/{name}", "v1")
        if digest(there) != image.digest:
            raise Wrong(f"skopeo makes {digest(there)} of {image.digest}")

    def skopeo_round(self):
        image, _ = self.our_release()
        for kind, place in (("oci", "skopeo-layout"), ("oci-archive", "skopeo.tar")):
            where = f"{kind}:{self.work / place}:v1"
            self.skopeo(f"docker://{image.tagged}", where)
            self.same_by_skopeo(where, image, f"skopeo-{kind}")

    def skopeo_takes_ours(self):
        image, _ = self.our_release()
        for kind, place in (("oci", "for-skopeo"), ("oci-archive", "for-skopeo.tar")):
            where = f"{kind}:{self.work / place}:v1"
            self.ours("oci", "copy", image.tagged, where)
            self.same_by_skopeo(where, image, f"ours-{kind}")

    def skopeo_leaves_signatures(self):
        """skopeo copies the image alone: no signature comes along. What it made can be signed in place."""
        image, _ = self.our_release()
        for kind, place in (("oci", "signed-layout"), ("oci-archive", "signed.tar")):
            where = f"{kind}:{self.work / place}:v1"
            self.skopeo(f"docker://{image.tagged}", where)
            self.fails_step_1(where, self.keys.theirs, "was found")
            self.sign(where, self.keys.theirs)
            self.passes(where, self.keys.theirs)
            self.same_by_skopeo(where, image, f"signed-{kind}")

    # Python's cryptography.

    def computed(self, layout):
        """Our signature of a layout, checked from the bytes on: what is signed, by which key, and what it says."""
        image, folder = self.signed_for("both"), self.work / f"computed-{layout}"
        self.ours("oci", "copy", image.tagged, f"oci:{folder}:v1")
        message, signature = payloads.signed(folder, layout, image.digest, image.repository_of)
        by_theirs, by_others = (payloads.genuine(key, signature, message) for key in (self.keys.theirs, self.keys.others))
        if not by_theirs or by_others:
            raise Wrong("the signature is not by the key that signed, or by any")

    # The distribution-spec.

    def specified(self, check):
        """A check of `distribution.py`, over the registry that deletes where it wants deletion."""
        registry = self.bench.deleting[self.registry.name] if check.deletes else self.registry
        known = distribution.KNOWN.get(self.registry.name, {}).get(check.name)
        try:
            check.over(registry.host, "distribution")
        except distribution.Wrong as wrong:
            raise (Known(known) if known else Wrong(str(wrong))) from wrong
        if known:
            raise Wrong(f"it does this, though the list of what it does not says: {known}")

    def conformance(self):
        """Go fetches and builds the suites, so that this alone goes out."""
        command = [self.bench.conformance, f"http://{self.bench.deleting[self.registry.name].host}", self.bench.programs / "conformance"]
        done = self.shell.run(*command, environment=dict(os.environ), patience=600)
        if done.returncode == 2:
            raise NotHere(done.stderr.splitlines()[0])
        if done.returncode != 0:
            raise Wrong(said(done))
        self.bench.notes += done.stdout.splitlines()


def words(wrong):
    return str(wrong).strip() if isinstance(wrong, Wrong) else repr(wrong)


def undated(signer):
    return [] if signer.dates else ["--allow-undated"]


def field(told, name):
    for line in told.splitlines():
        if line.startswith(f"{name}: "):
            return line.removeprefix(f"{name}: ")
    raise Wrong(f"no {name} in what was printed: {told!r}")


def outcomes(told):
    """The steps' outcomes, and the last line."""
    lines = told.splitlines()
    steps = [line[1:5] for n, line in enumerate(lines[:4], 1) if line[6:].startswith(f" Step {n}: ")]
    return steps, lines[-1] if lines else ""


class Row:
    def __init__(self, group, label, check, over):
        self.group, self.label, self.check, self.over = group, label, check, over


class Bench:
    """What all columns share."""

    def __init__(self, autonomy, programs, work, policies):
        self.autonomy, self.programs, self.work, self.policies = autonomy, programs, work, policies
        self.shell, self.troubles, self.notes, self.known, self.deleting = Shell(work), [], [], {}, {}
        self.missing = [f"{name}, which Go builds, is not there" for name in BUILT if not (programs / name).exists()]
        self.skopeo, self.docker_registry = shutil.which("skopeo"), shutil.which("docker-registry")
        self.conformance = pathlib.Path(__file__).with_name("conformance.sh")
        self.cosigns = [
            Cosign(self.shell, programs / f"cosign{major}", major, layout)
            for major, layout in ((3, "bundle"), (3, "simple"), (2, "simple"))
            if (programs / f"cosign{major}").exists()
        ]
        containers = programs / "containers"
        self.signers = self.cosigns + ([Containers(self.shell, containers)] if containers.exists() else [])
        self.keys = Keys(work, autonomy, self.shell, self.cosigns)

    def rows(self, over):
        rows = []

        def row(group, label, check, *arguments, over=over):
            rows.append(Row(group, label, lambda column: check(column, *arguments), over))

        for signer in self.signers:
            group = f"{signer.name}, signs with our key pair"
            row(group, "verify passes" + (" with --allow-undated" if undated(signer) else ""), Column.we_take, signer)
            row(group, "another key: step 1 fails", Column.we_refuse_another_key, signer)
            row(group, "beside another image, or altered: step 1 fails", Column.we_refuse_moved_or_altered, signer)
            row(group, "without a date: step 1 says how to sign", Column.we_want_a_date, signer)
        for signer in self.signers:
            group = f"oci sign, with cosign's key pair: {signer.name}"
            row(group, "accepts", Column.they_take, signer)
            row(group, "another key: refuses", Column.they_refuse_another_key, signer)
            row(group, "beside another image, or altered: refuses", Column.they_refuse_moved_or_altered, signer)
        for cosign in self.cosigns:
            if cosign.older:
                row("oci sign, with cosign 2's key pair: cosign 2, .sig", "accepts", Column.older_pair, cosign)
        group = "oci sign: Python's cryptography"
        row(group, "simple signing: payload and signature", Column.computed, "simple")
        row(group, "bundle: statement, envelope and signature", Column.computed, "bundle")
        group = "image, lock and policy"
        row(group, "oci attach-lock, attach-policy, sign: four steps pass", Column.four_steps)
        for cosign in self.cosigns:
            row(group, f"all three signed by {cosign.name}: four steps pass", Column.four_steps_by, cosign)
        for cosign in self.cosigns:
            row(group, f"our signatures of lock and policy: {cosign.name}, accepts", Column.sidecars_for, cosign)
        row(group, "bundle create, verify: four steps pass; skopeo reads it", Column.archive)
        group = "copies"
        row(group, "oci copy to layout, archive and back: nothing is lost", Column.copies)
        row(group, "skopeo to layout and archive of its own and back: same digest", Column.skopeo_round)
        row(group, "skopeo from our layout and archive: same digest", Column.skopeo_takes_ours)
        row(group, "skopeo leaves signatures behind: step 1 fails; signed there: passes", Column.skopeo_leaves_signatures)
        for one in distribution.CHECKS:
            # In memory nothing can be switched off.
            names = [name for name in over if name != "ociregistry" or one.deletes is not False]
            row(f"the distribution-spec: {one.group}", one.label, Column.specified, one, over=names)
        row("the distribution-spec's conformance suites", "pass", Column.conformance, over=["autonomy"])
        return rows


def table(rows, columns):
    width = max(len(row.label) for row in rows) + 4
    names = [column.registry.name for column in columns]
    print("".join([f"{'over':{width}}", *(f"{name:>{len(name) + 3}}" for name in names)]))
    group = None
    for row in rows:
        if row.group != group:
            group = row.group
            print(group)
        cells = "".join(f"{column.cells[row]:>{len(name) + 3}}" for column, name in zip(columns, names, strict=True))
        print(f"{'  ' + row.label:{width}}{cells}")


def main():
    autonomy, programs, work, policies = (pathlib.Path(name).resolve() for name in sys.argv[1:])
    started = time.monotonic()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    bench = Bench(autonomy, programs, work, policies)
    missing = [name for name in ("docker-registry", "skopeo") if not shutil.which(name)]
    if missing:
        print(f"interop: FAILED: {' and '.join(missing)} missing; on Debian and Ubuntu: apt-get install {' '.join(missing)}")
        return 1
    with contextlib.ExitStack() as stack:
        environment = bench.shell.environment
        running = [registries.docker_registry(bench.docker_registry, work, environment)]
        running.append(registries.ours(autonomy, work, environment))
        if (programs / "registry").exists():
            running.append(registries.in_memory(programs / "registry", work, environment))
        columns = [Column(bench, stack.enter_context(registry)) for registry in running]
        # What the specification says of deletion, and suites that delete what they pushed, want a registry that lets them.
        for registry in (
            registries.docker_registry(bench.docker_registry, work, environment, deletes=True),
            registries.ours(autonomy, work, environment, "--deletes", name="autonomy-deletes"),
        ):
            registry = stack.enter_context(registry)
            bench.deleting[registry.name.removesuffix("-deletes")] = registry
        bench.deleting |= {column.registry.name: column.registry for column in columns if column.registry.name == "ociregistry"}
        rows = bench.rows([column.registry.name for column in columns])
        with concurrent.futures.ThreadPoolExecutor(len(columns)) as pool:
            list(pool.map(lambda column: column.run(rows), columns))
    passing = distribution.indifferent(200)
    if passing != ["greeting"]:
        bench.troubles.append(("the checks of the distribution-spec", f"pass over a server that answers all alike: {passing}"))
    table(rows, columns)
    for reason, labels in bench.known.items():
        print(f"interop: known: {reason} ({'; '.join(labels)})")
    for line in [*bench.notes, *(f"interop: not run: {reason}" for reason in bench.missing)]:
        print(line)
    told = set()
    for where, trouble in bench.troubles:
        print(f"interop: FAILED: {where}: {'the same' if trouble in told else trouble}")
        told.add(trouble)
    passed = sum(cell == "PASS" for column in columns for cell in column.cells.values())
    seconds = round(time.monotonic() - started)
    known = sum(len(labels) for labels in bench.known.values())
    counts = f"{passed} passed, {len(bench.troubles)} failed, {known} known, {len(bench.missing)} not run"
    print(f"interop: supply chain: {counts}, {seconds} s")
    return 1 if bench.troubles or not passed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Wrong as wrong:
        sys.exit(f"interop: FAILED: {wrong}")
