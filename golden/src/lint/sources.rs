//! What no source may say.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;

use super::manifests::{Member, Room};
use super::{Findings, code};
use crate::tree;

/// Files longer than this are listed.
const LONG: usize = 600;

/// Never, in any code: word, and what to do instead.
const NEVER: [(&str, &str); 4] = [
    ("unsafe", "no crate of this workspace has unsafe code"),
    ("todo!", "write it or leave it out"),
    ("unimplemented!", "write it or leave it out"),
    ("#[ignore", "a test runs or is removed"),
];

/// Never in `machines` outside its tests.
const IMPURE: [(&str, &str); 12] = [
    ("std::", "machines is no_std; use core or alloc"),
    ("HashMap", "use BTreeMap: iteration order must not depend on a random seed"),
    ("HashSet", "use BTreeSet: iteration order must not depend on a random seed"),
    ("Instant", "time is given in with the event"),
    ("SystemTime", "time is given in with the event"),
    ("getrandom", "entropy is given in with Event::Start"),
    ("rand", "entropy is given in with Event::Start"),
    ("tokio", "a machine pushes effects; a driver carries them out"),
    ("async", "a machine pushes effects; a driver carries them out"),
    ("thread_local!", "a machine owns its whole state"),
    ("static", "a machine owns its whole state; use const"),
    ("println!", "push a Note"),
];

/// The places that may rename a file (FAULTS D19): what carries out `disk::Op::Rename`, what puts all other files in
/// place, and what names a socket, which has no content that could be lost.
const RENAMES: [&str; 3] = ["io/drive/src/disk/", "io/drive/src/place.rs", "io/http/src/unix.rs"];
/// The rooms that play an operator, who moves files, or measure a raw copy.
const OPERATORS: [Room; 2] = [Room::Demo, Room::Bench];

/// Checks every source; returns the names of all functions.
pub(super) fn check(root: &Path, members: &[Member], findings: &mut Findings) -> Result<BTreeSet<String>> {
    let mut functions = BTreeSet::new();
    let mut long = Vec::new();
    let mut renaming = Vec::new();
    for member in members {
        for part in ["src", "tests", "examples", "benches"] {
            for path in tree::rust_files(&root.join(&member.folder).join(part))? {
                let shown = path.strip_prefix(root).unwrap_or(&path).display().to_string();
                let source = tree::read_text(&path)?;
                let code = code::only(&source);
                let pure = Room::of(&member.folder) == Some(Room::Machines) && part == "src" && !is_test_file(&shown);
                each_line(&shown, &code, findings);
                let operator = Room::of(&member.folder).is_some_and(|room| OPERATORS.contains(&room));
                if part == "src" && !is_test_file(&shown) && !operator {
                    renames(&shown, &code, &mut renaming, findings);
                }
                if pure {
                    purity(&shown, &code, findings);
                }
                if !shown.starts_with("golden/") {
                    places(&shown, &source, findings);
                }
                functions.extend(names(&code));
                let lines = source.lines().count();
                if lines > LONG {
                    long.push((lines, shown));
                }
            }
        }
        engine_door(root, member, findings)?;
    }
    crate_root(root, findings)?;
    for place in RENAMES {
        let there: Vec<&str> = renaming.iter().map(String::as_str).filter(|line| line.starts_with(place)).collect();
        if there.len() > 1 {
            findings.errors.push(format!("{}: one helper renames files there (FAULTS D19)", there.join(", ")));
        }
    }
    long.sort_by(|a, b| b.cmp(a));
    findings.warnings.extend(long.into_iter().map(|(n, file)| format!("{file}: {n} lines; aim for under 500")));
    Ok(functions)
}

fn is_test_file(shown: &str) -> bool {
    shown.ends_with("/tests.rs") || shown.ends_with("_tests.rs") || shown.contains("/tests/")
}

fn each_line(shown: &str, code: &str, findings: &mut Findings) {
    for (n, line) in (1..).zip(code.lines()) {
        for (word, instead) in NEVER {
            if code::has_word(line, word) || word.starts_with('#') && line.contains(word) {
                findings.errors.push(format!("{shown}:{n}: `{word}`: {instead}"));
            }
        }
    }
}

/// Calls that rename a file, outside of tests; a method of one's own type that carries the operation out is none.
fn renames(shown: &str, code: &str, inside: &mut Vec<String>, findings: &mut Findings) {
    const CALLS: [&str; 4] = ["rename(", "renameat(", "renameat_with(", "renameat2("];
    for (n, line) in (1..).zip(code::without_tests(code).lines()) {
        let line = line.replace("self.rename(", "");
        if !CALLS.iter().any(|call| code::has_word(&line, call) && !line.contains(&format!("fn {call}"))) {
            continue;
        }
        if RENAMES.iter().any(|place| shown.starts_with(place)) {
            inside.push(format!("{shown}:{n}"));
        } else {
            let rule = "one helper puts files in place (FAULTS D19): disk::replace, or io_drive::place";
            findings.errors.push(format!("{shown}:{n}: {rule}"));
        }
    }
}

fn purity(shown: &str, code: &str, findings: &mut Findings) {
    let code = code::without_tests(code);
    for (n, line) in (1..).zip(code.lines()) {
        for (word, instead) in IMPURE {
            let lifetime = word == "static" && line.contains("'static") && !line.trim_start().starts_with("static");
            let public = word == "static" && line.contains("pub static");
            if code::has_word(line, word) && (!lifetime || public) {
                findings.errors.push(format!("{shown}:{n}: `{word}`: {instead}"));
            }
        }
    }
}

/// A path of somebody's own machine has no business in the project.
fn places(shown: &str, source: &str, findings: &mut Findings) {
    for (n, line) in (1..).zip(source.lines()) {
        for place in ["/work/", "/home/", "/root/", "/Users/"] {
            if line.contains(place) {
                findings.errors.push(format!("{shown}:{n}: `{place}` names one machine's folders"));
            }
        }
    }
}

/// Nothing but io/policy names the policy engine.
fn engine_door(root: &Path, member: &Member, findings: &mut Findings) -> Result<()> {
    if member.folder == "io/policy" {
        return Ok(());
    }
    for path in tree::rust_files(&root.join(&member.folder))? {
        let code = code::only(&tree::read_text(&path)?);
        if code::has_word(&code, "regorus") {
            let shown = path.strip_prefix(root).unwrap_or(&path).display();
            findings.errors.push(format!("{shown}: only io/policy may name regorus; call io-policy instead"));
        }
    }
    Ok(())
}

fn crate_root(root: &Path, findings: &mut Findings) -> Result<()> {
    let path = root.join("machines/src/lib.rs");
    if path.is_file() {
        let code = code::only(&tree::read_text(&path)?);
        for attribute in ["#![no_std]", "#![forbid(unsafe_code)]"] {
            if !code.contains(attribute) {
                findings.errors.push(format!("machines/src/lib.rs: `{attribute}` is missing"));
            }
        }
    }
    Ok(())
}

/// The names behind `fn`.
fn names(code: &str) -> impl Iterator<Item = String> {
    code.match_indices("fn ").filter_map(|(at, _)| {
        let name: String = code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        (!name.is_empty()).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn house(file: &str, source: &str) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, source).unwrap();
        let folder = file.split("/src/").next().unwrap();
        let member = Member { folder: folder.into(), manifest: toml::Table::new() };
        let mut findings = Findings::default();
        check(root.path(), &[member], &mut findings).unwrap();
        findings.errors
    }

    #[test]
    fn each_banned_word_is_found_with_its_line() {
        for (file, source, what) in [
            ("sim/src/a.rs", "fn a() {\n    unsafe {}\n}", "sim/src/a.rs:2: `unsafe`"),
            ("sim/src/a.rs", "fn a() { todo!() }", "`todo!`"),
            ("sim/src/a.rs", "fn a() { unimplemented!() }", "`unimplemented!`"),
            ("sim/src/a.rs", "#[ignore = \"slow\"]\nfn a() {}", "`#[ignore`"),
            ("sim/src/a.rs", "use regorus::Engine;", "only io/policy"),
            ("io/node/src/a.rs", "fn a() { std::fs::rename(x, y); }", "FAULTS D19"),
            ("io/node/src/a.rs", "fn a() { rustix::fs::renameat(a, b, c, d); }", "FAULTS D19"),
            ("machines/src/a.rs", "use std::time::Duration;", "`std::`"),
            ("machines/src/a.rs", "fn a() { Instant::now(); }", "`Instant`"),
            ("machines/src/a.rs", "static A: u8 = 1;", "`static`"),
            ("machines/src/a.rs", "use hashbrown::HashMap;", "`HashMap`"),
            ("machines/src/a.rs", "fn a(_: &'static str) { async {} }", "`async`"),
        ] {
            let found = house(file, source);
            assert!(found.len() == 1 && found[0].contains(what), "{source}: {found:?}");
        }
    }

    #[test]
    fn one_place_renames_and_a_second_one_there_is_found_too() {
        assert_eq!(house("io/drive/src/disk/mod.rs", "fn a() { rename(x); }"), Vec::<String>::new());
        let twice = house("io/drive/src/disk/mod.rs", "fn a() {\n rename(x);\n rename(y);\n}");
        assert!(twice.len() == 1 && twice[0].contains("one helper renames files there"), "{twice:?}");
    }

    #[test]
    fn tests_comments_and_lifetimes_are_left_alone() {
        let rename = "fn a(&self) { self.rename(x); }\n#[cfg(test)]\nmod t { fn b() { std::fs::rename(x, y); } }";
        assert_eq!(house("io/node/src/a.rs", rename), Vec::<String>::new());
        let source =
            "//! unsafe HashMap\nfn a(s: &'static str) -> &'static str { s }\n#[cfg(test)]\nmod t { use std::vec; }";
        assert_eq!(house("machines/src/a.rs", source), Vec::<String>::new());
    }
}
