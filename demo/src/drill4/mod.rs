//! Drill 4, live: each part of a release is changed, removed, swapped, resigned, outdated. It is refused at the step that the
//! specification names, nothing behind it is tried, and nothing of it stays on the node.

mod cases;
mod shelf;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::act2::PASSES;
use crate::drills::Row;
use crate::node::Node;
use crate::release::{Draft, Keys, own, succeeded};
use crate::scratch::Scratch;
use crate::shell::{Around, Printed, Shell};
use cases::{CASES, Case};
use shelf::Shelf;

/// The sequence of the release that is in force on the node.
const SEQUENCE: u64 = 7;

/// Where something has to be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// At one of the four steps.
    Step(usize),
    /// Something of another release lies under a plain tag: at step 2. An import knows no tag, only what refers to the
    /// image: for it the part is missing, which is step 1.
    Swapped,
    /// All four pass, and the node's own rules refuse it with this word.
    Refused(&'static str),
    /// The same for a release of another channel, which only an import by a channel can tell.
    WrongChannel,
    /// It cannot be read, so that nothing is known of it.
    Unreadable,
    /// The key cannot be used: the exit code.
    NoKey(i32),
}

impl Want {
    const fn words(self) -> &'static str {
        match self {
            Self::Step(1) => "FAIL at step 1, SKIP 2 to 4, exit 1; only the refusal is recorded",
            Self::Step(2) => "PASS 1, FAIL at step 2, SKIP 3 and 4, exit 1; only the refusal is recorded",
            Self::Step(3) => "PASS 1 and 2, FAIL at step 3, SKIP 4, exit 1; only the refusal is recorded",
            Self::Step(_) => "PASS 1 to 3, FAIL at step 4, exit 1; only the refusal is recorded",
            Self::Swapped => {
                "FAIL at step 2; for the import, which knows no tag, at step 1; exit 1; only the refusal is recorded"
            }
            Self::Refused(_) => "four times PASS; load and import refused, exit 1; only the refusal is recorded",
            Self::WrongChannel => {
                "four times PASS; import by channel stable refused, exit 1; only the refusal is recorded"
            }
            Self::Unreadable => "exit 3, no step is judged; nothing changed",
            Self::NoKey(1) => "exit 1, no step is judged; nothing changed",
            Self::NoKey(_) => "exit 3, no step is judged; nothing changed",
        }
    }
}

/// A release and its publisher, and another release, and somebody else's key.
pub struct Published<'a> {
    shell: &'a Shell,
    policies: &'a Path,
    keys: &'a Keys,
    stranger: &'a Keys,
    draft: Draft<'a>,
    signed: &'a Shelf,
    other: &'a Shelf,
}

/// Runs the drill.
///
/// # Errors
/// Something that the drill needs does not run at all.
pub fn run(shell: &Shell, autonomy: &Path, policies: &Path, rows: &mut Vec<Row>) -> Result<()> {
    let scratch = Scratch::new(None)?;
    let (folder, quiet) = (scratch.path(), shell.muted());
    let keys = Keys::generate(&quiet, &folder.join("publisher"))?;
    let stranger = Keys::generate(&quiet, &folder.join("stranger"))?;
    let [one, two] = [("1.0.0", "one"), ("2.0.0", "two")].map(|(version, name)| (version, folder.join(name)));
    for (version, name) in [&one, &two] {
        std::fs::write(name, format!("the agent, version {version}\n"))?;
        let (policies, out) = (policies.display().to_string(), name.with_extension("tar.gz").display().to_string());
        succeeded(&quiet.autonomy(&["policy", "build", "--in", &policies, "--out", &out, "--version", version])?)?;
    }
    let [signed, other] = ["signed", "other"].map(|name| Shelf { folder: folder.join(name) });
    let [image, image_of_other] = [signed.image(), other.image()];
    let bundles = [&one.1, &two.1].map(|name| name.with_extension("tar.gz"));
    let lock = folder.join("autonomy.lock.json");
    let draft = Draft {
        image: &image,
        agent: &one.1,
        bundle: &bundles[0],
        name: "myapp",
        version: one.0,
        sequence: SEQUENCE,
        channel: "stable",
        lock: &lock,
    };
    let next = Draft {
        image: &image_of_other,
        agent: &two.1,
        bundle: &bundles[1],
        version: two.0,
        sequence: SEQUENCE + 1,
        ..draft
    };
    for release in [&draft, &next] {
        release.publish(&quiet)?;
        own(&quiet, &keys, release.image, &[])?;
    }
    let (keys, stranger, signed, other) = (&keys, &stranger, &signed, &other);
    let published = Published { shell: &quiet, policies, keys, stranger, draft, signed, other };
    let mut drill = Drill { shell, folder, root: folder.join("node"), temporary: folder.join("tmp") };
    std::fs::create_dir(&drill.temporary)?;
    drill.activate(&published)?;
    for (number, case) in CASES.iter().enumerate() {
        rows.push(drill.case(&published, case, number).with_context(|| case.what)?);
    }
    rows.push(drill.restarted(&published, autonomy)?);
    rows.push(drill.unchanged(&published)?);
    Ok(())
}

struct Drill<'a> {
    shell: &'a Shell,
    folder: &'a Path,
    root: PathBuf,
    /// Where the commands put what is temporary.
    temporary: PathBuf,
}

/// What the commands said.
struct Answers {
    verify: Printed,
    /// `None` where it was not asked: a load comes by no channel.
    load: Option<Printed>,
    import: Printed,
}

impl Answers {
    fn all(&self) -> impl Iterator<Item = &Printed> {
        [Some(&self.verify), self.load.as_ref(), Some(&self.import)].into_iter().flatten()
    }

    /// Their exit codes, in that order.
    fn codes(&self) -> Vec<i32> {
        self.all().map(|done| done.code).collect()
    }
}

impl Drill<'_> {
    fn ask(&self, image: &str, archive: &Path, key: &Path, load: bool) -> Result<Answers> {
        let text = |path: &Path| path.display().to_string();
        let (root, archive, key, temporary) = (text(&self.root), text(archive), text(key), text(&self.temporary));
        let variables = [("TMPDIR", &*temporary)];
        let around = Around { variables: &variables, ..Around::default() };
        let here = ["--pubkey", &key, "--state-root", &root];
        let ask = |arguments: &[&str]| self.shell.quietly_around(around, &[arguments, &here].concat());
        Ok(Answers {
            verify: ask(&["verify", "--image", image, "--require-lock", "--require-policy"])?,
            load: load.then(|| ask(&["policy", "load", "--image", image])).transpose()?,
            import: ask(&["bundle", "import", &archive, "--activate", "--channel", "stable"])?,
        })
    }

    /// The release as it was published is taken: what is refused later is refused for what was done to it.
    fn activate(&self, published: &Published<'_>) -> Result<()> {
        let (image, root) = (published.signed.image(), self.root.display().to_string());
        let key = published.keys.public.display().to_string();
        let load = ["policy", "load", "--image", &image, "--pubkey", &key, "--state-root", &root];
        succeeded(&self.shell.quietly(&load)?).context("the release that is in force")
    }

    fn case(&mut self, published: &Published<'_>, case: &Case, number: usize) -> Result<Row> {
        let to = self.folder.join(format!("case-{number}"));
        let (shelf, key) = (case.make)(published, &to)?;
        let archive = to.with_extension("tar");
        shelf.archive(&archive)?;
        let before = tree(&self.root)?;
        let answers = self.ask(&shelf.image(), &archive, &key, case.want != Want::WrongChannel)?;
        let (left, temporary) = (changes(&before, &tree(&self.root)?), tree(&self.temporary)?.len());
        let (holds, said) = judge(case.want, &answers, &left);
        let holds = holds && temporary == 0;
        let kept = match left.as_slice() {
            [] => "nothing changed".to_owned(),
            [Change::Recorded] => "only recorded".to_owned(),
            changes => format!("CHANGED: {}", self.named(changes)),
        };
        let rest = if temporary == 0 { String::new() } else { format!("; {temporary} temporary files LEFT") };
        let happened = format!("{said}; {kept}{rest}");
        self.shell.say(&format!("{} {}: {happened}", crate::checks::word(holds), case.what));
        if !holds {
            for done in answers.all() {
                self.shell.say(&format!("  exit {}: {}{}", done.code, done.out, done.err));
            }
        }
        if left.iter().any(|change| *change != Change::Recorded) {
            // The next case begins with a node that is as it has to be.
            std::fs::remove_dir_all(&self.root)?;
            self.activate(published)?;
        }
        Ok(Row { drill: "4", broken: case.what.into(), must: case.want.words(), happened, holds })
    }

    /// The first of the files that changed.
    fn named(&self, changes: &[Change]) -> String {
        let names = changes.iter().take(3).map(|change| match change {
            Change::Recorded => "policy/history.jsonl".to_owned(),
            Change::Other(path) => path.strip_prefix(&self.root).unwrap_or(path).display().to_string(),
        });
        let more = changes.len().saturating_sub(3);
        let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
        format!("{}{rest}", names.collect::<Vec<_>>().join(", "))
    }

    /// The floor is the node's own and outlives a runtime.
    fn restarted(&self, published: &Published<'_>, autonomy: &Path) -> Result<Row> {
        for _ in 0..2 {
            crate::drills::stop(Node::new(autonomy, &self.root)?.start()?)?;
        }
        let (shelf, key) = cases::older(published, &self.folder.join("case-restarted"))?;
        let (image, root, key) = (shelf.image(), self.root.display().to_string(), key.display().to_string());
        let load = ["policy", "load", "--image", &image, "--pubkey", &key, "--state-root", &root];
        let done = self.shell.quietly(&load)?;
        let happened = format!("exit {}: {}", done.code, done.err.split("; ").next().unwrap_or_default());
        self.shell.say(&format!("an older sequence after two starts of the runtime: {happened}"));
        Ok(Row {
            drill: "4",
            broken: "lock: an older sequence, after two starts of the runtime".into(),
            must: "policy load: REJECTED — rollback, exit 1",
            happened,
            holds: done.code == 1 && done.err.starts_with("policy load: REJECTED — rollback: "),
        })
    }

    /// After all that, the untouched release is still taken.
    fn unchanged(&self, published: &Published<'_>) -> Result<Row> {
        let archive = self.folder.join("untouched.tar");
        published.signed.archive(&archive)?;
        let answers = self.ask(&published.signed.image(), &archive, &published.keys.public, true)?;
        let codes = answers.codes();
        let happened = format!("exits {}", words(&codes));
        self.shell.say(&format!("the release as it was published: {happened}"));
        Ok(Row {
            drill: "4",
            broken: "nothing: the release as it was published".into(),
            must: "verify, load and import: exit 0",
            happened,
            holds: codes == [0, 0, 0],
        })
    }
}

/// The words that begin the lines of a verification that fails at a step.
fn steps(failing: usize) -> String {
    let word = |step| match usize::cmp(&step, &failing) {
        std::cmp::Ordering::Less => "PASS",
        std::cmp::Ordering::Equal => "FAIL",
        std::cmp::Ordering::Greater => "SKIP",
    };
    (1..=4).map(word).collect::<Vec<_>>().join(" ")
}

/// The words of a verification's lines.
fn told(done: &Printed) -> String {
    let lines = done.out.lines().filter(|line| line.contains("] Step "));
    lines.filter_map(|line| line.get(1..5)).collect::<Vec<_>>().join(" ")
}

/// Exit codes in words.
fn words(codes: &[i32]) -> String {
    codes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn judge(want: Want, answers: &Answers, left: &[Change]) -> (bool, String) {
    let Answers { verify, load, import } = answers;
    let codes = answers.codes();
    let failed = |done: &Printed, step| told(done) == steps(step) && done.out.ends_with("verification FAILED\n");
    let passed = |done: &Printed| done.out.starts_with(&format!("{}\nverification OK\n", PASSES.join("\n")));
    let loading = |words: &str| {
        load.as_ref().is_some_and(|done| done.err.starts_with(&format!("policy load: REJECTED — {words}: ")))
    };
    let importing = |words: &str| import.err.starts_with(&format!("bundle import: REJECTED — {words}: "));
    let (unjudged, untouched) = (answers.all().all(|done| told(done).is_empty()), left.is_empty());
    let recorded = *left == [Change::Recorded];
    let holds = match want {
        Want::Step(step) => {
            codes == [1; 3]
                && failed(verify, step)
                && loading(&format!("step {step}"))
                && failed(import, step)
                && recorded
        }
        Want::Swapped => codes == [1; 3] && failed(verify, 2) && loading("step 2") && failed(import, 1) && recorded,
        Want::Refused(word) => {
            codes == [0, 1, 1] && passed(verify) && passed(import) && loading(word) && importing(word) && recorded
        }
        Want::WrongChannel => {
            codes == [0, 1] && passed(verify) && passed(import) && importing("wrong_channel") && recorded
        }
        Want::Unreadable => codes == [3; 3] && unjudged && untouched,
        Want::NoKey(code) => codes == [code; 3] && unjudged && untouched,
    };
    let refused = match want {
        Want::Refused(word) if loading(word) && importing(word) => format!(", {word}"),
        Want::WrongChannel if importing("wrong_channel") => ", wrong_channel".into(),
        Want::Swapped => format!("; import {}", told(import)),
        Want::Refused(_) | Want::WrongChannel | Want::Step(_) | Want::Unreadable | Want::NoKey(_) => String::new(),
    };
    let said = format!("{}, exits {}{refused}", told(verify), words(&codes));
    (holds, said.trim_start_matches(", ").to_owned())
}

/// Mode and content of each file beneath a folder; a folder has no content.
type Tree = BTreeMap<PathBuf, (u32, Option<Vec<u8>>)>;

fn tree(folder: &Path) -> Result<Tree> {
    let mut all = Tree::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let path = entry?.path();
            let about = std::fs::symlink_metadata(&path)?;
            let content = if about.is_dir() {
                open.push(path.clone());
                None
            } else {
                Some(std::fs::read(&path)?)
            };
            all.insert(path, (about.mode(), content));
        }
    }
    Ok(all)
}

/// What is another than before.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    /// Lines were added to `policy/history.jsonl`.
    Recorded,
    /// Anything else.
    Other(PathBuf),
}

fn changes(before: &Tree, after: &Tree) -> Vec<Change> {
    let mut found = Vec::new();
    for path in before.keys().chain(after.keys().filter(|path| !before.contains_key(*path))) {
        let (was, is) = (before.get(path), after.get(path));
        if was == is {
            continue;
        }
        let grown = match (was, is) {
            (Some((_, Some(was))), Some((_, Some(is)))) => is.len() > was.len() && is.starts_with(was),
            _ => false,
        };
        found.push(match path.ends_with("policy/history.jsonl") && grown {
            true => Change::Recorded,
            false => Change::Other(path.clone()),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_change_but_a_longer_history_is_seen() {
        let path = |name: &str| PathBuf::from(name);
        let file = |bytes: &[u8]| (0o100_600, Some(bytes.to_vec()));
        let before = Tree::from([(path("policy/history.jsonl"), file(b"1\n")), (path("a"), file(b"a"))]);
        assert_eq!(changes(&before, &before), []);
        let mut after = before.clone();
        after.insert(path("policy/history.jsonl"), file(b"1\n2\n"));
        assert_eq!(changes(&before, &after), [Change::Recorded]);
        after.insert(path("policy/history.jsonl"), file(b"2\n1\n"));
        assert_eq!(changes(&before, &after), [Change::Other(path("policy/history.jsonl"))]);
        let mut after = before.clone();
        after.insert(path("b"), (0o40_700, None));
        assert_eq!(changes(&before, &after), [Change::Other(path("b"))]);
        after = before.clone();
        after.remove(&path("a"));
        assert_eq!(changes(&before, &after), [Change::Other(path("a"))]);
        after = before.clone();
        after.insert(path("a"), (0o100_644, Some(b"a".to_vec())));
        assert_eq!(changes(&before, &after), [Change::Other(path("a"))]);
    }

    #[test]
    fn the_steps_behind_a_failed_one_are_skipped() {
        assert_eq!(steps(1), "FAIL SKIP SKIP SKIP");
        assert_eq!(steps(3), "PASS PASS FAIL SKIP");
        let printed = |out: &str| Printed { code: 1, out: out.into(), err: String::new() };
        let done = printed("[PASS] Step 1: x\n[FAIL] Step 2: y — want\n[SKIP] Step 3: z\n[SKIP] Step 4: w\nend\n");
        assert_eq!(told(&done), steps(2));
    }
}
