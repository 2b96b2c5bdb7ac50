//! Who imports whom: rooms import only downward, and the policy engine has one door.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use toml::{Table, Value};

use super::Findings;
use crate::tree;

/// What `machines` may be built from: pure crates that work without `std`.
const PURE: [&str; 9] =
    ["base64ct", "blake3", "sha2", "serde", "serde_json", "semver", "miniz_oxide", "memchr", "thiserror"];

/// One package of the workspace.
pub(super) struct Member {
    /// Its folder, as the workspace names it.
    pub folder: String,
    /// Its manifest.
    pub manifest: Table,
}

/// The rooms of the house, from the bottom up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Machines,
    Io,
    Sim,
    Daemons,
    Golden,
    Demo,
    Bench,
}

impl Room {
    pub(super) fn of(folder: &str) -> Option<Self> {
        Some(match folder.split('/').next()? {
            "machines" => Self::Machines,
            "io" => Self::Io,
            "sim" => Self::Sim,
            "daemons" => Self::Daemons,
            "golden" => Self::Golden,
            "demo" => Self::Demo,
            "bench" => Self::Bench,
            _ => return None,
        })
    }

    /// Whether this room may import `package`, which lies in `other`. Tests may also reach across: the one
    /// conformance suite of the disk's contract runs against both drivers.
    fn may_import(self, other: Self, package: &str, in_tests: bool) -> bool {
        match self {
            Self::Machines => false,
            Self::Io => matches!(other, Self::Machines | Self::Io) || in_tests && other == Self::Sim,
            Self::Sim => other == Self::Machines || package == "io-policy" || in_tests && other == Self::Io,
            Self::Daemons => {
                matches!(other, Self::Machines | Self::Io)
                    || package == "daemon-common"
                    || in_tests && other == Self::Demo
            }
            // The golden trace hashes are the simulator's.
            Self::Golden => matches!(other, Self::Machines | Self::Sim),
            Self::Demo => other == Self::Machines,
            Self::Bench => matches!(other, Self::Machines | Self::Sim | Self::Demo | Self::Io),
        }
    }
}

/// The workspace's members with their manifests.
pub(super) fn members(root: &Path) -> Result<Vec<Member>> {
    let workspace = read(&root.join("Cargo.toml"))?;
    let folders = workspace.get("workspace").and_then(|w| w.get("members")).and_then(Value::as_array);
    let folders = folders.context("Cargo.toml: no [workspace] members")?;
    let mut members = Vec::new();
    for folder in folders.iter().filter_map(Value::as_str) {
        members.push(Member { folder: folder.into(), manifest: read(&root.join(folder).join("Cargo.toml"))? });
    }
    Ok(members)
}

fn read(path: &Path) -> Result<Table> {
    tree::read_text(path)?.parse().with_context(|| format!("cannot parse {}", path.display()))
}

pub(super) fn check(root: &Path, members: &[Member], findings: &mut Findings) -> Result<()> {
    for member in members {
        let file = format!("{}/Cargo.toml", member.folder);
        let Some(room) = Room::of(&member.folder) else {
            findings.errors.push(format!("{file}: the package lies in no room; see golden/src/lint/manifests.rs"));
            continue;
        };
        for (package, in_tests) in dependencies(&member.manifest) {
            if package == "regorus" && member.folder != "io/policy" {
                findings.errors.push(format!("{file}: only io/policy may depend on regorus; call io-policy instead"));
            }
            if let Some(other) = members.iter().find(|m| name(&m.manifest) == Some(package.as_str())) {
                let allowed = Room::of(&other.folder).is_some_and(|other| room.may_import(other, &package, in_tests));
                if !allowed {
                    findings.errors.push(format!("{file}: {room:?} may not import `{package}`: rooms import downward"));
                }
            } else if room == Room::Machines && !in_tests && !PURE.contains(&package.as_str()) {
                findings.errors.push(format!("{file}: `{package}` is not on the list of pure crates for machines"));
            }
        }
        if !forbids_unsafe(&member.manifest) {
            findings.errors.push(format!("{file}: needs `[lints] workspace = true` or `unsafe_code = \"forbid\"`"));
        }
    }
    for stray in strays(root, members)? {
        findings.errors.push(format!("{}: not among the workspace's members", stray.display()));
    }
    Ok(())
}

fn name(manifest: &Table) -> Option<&str> {
    manifest.get("package")?.get("name")?.as_str()
}

/// The names of all dependencies, and whether only tests see them; tables of one target platform count too.
fn dependencies(manifest: &Table) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    let platforms = manifest.get("target").and_then(Value::as_table).into_iter().flat_map(|t| t.values());
    for table in platforms.filter_map(Value::as_table).chain([manifest]) {
        for (kind, in_tests) in [("dependencies", false), ("build-dependencies", false), ("dev-dependencies", true)] {
            for (key, value) in table.get(kind).and_then(Value::as_table).into_iter().flatten() {
                let renamed = value.get("package").and_then(Value::as_str);
                found.push((renamed.unwrap_or(key).to_owned(), in_tests));
            }
        }
    }
    found
}

fn forbids_unsafe(manifest: &Table) -> bool {
    let lints = manifest.get("lints");
    let whole = lints.and_then(|l| l.get("workspace")).and_then(Value::as_bool) == Some(true);
    let own = lints.and_then(|l| l.get("rust")).and_then(|r| r.get("unsafe_code")).and_then(Value::as_str);
    whole || own == Some("forbid")
}

/// Manifests in the rooms that the workspace does not know.
fn strays(root: &Path, members: &[Member]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for room in ["machines", "io", "sim", "daemons", "golden", "demo", "bench"] {
        let folder = root.join(room);
        if !folder.is_dir() {
            continue;
        }
        for file in tree::names(&folder)?.iter().filter_map(|n| n.strip_suffix("Cargo.toml")) {
            let package = format!("{room}/{file}");
            if !members.iter().any(|m| m.folder == package.trim_end_matches('/')) {
                found.push(Path::new(package.trim_end_matches('/')).join("Cargo.toml"));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(folder: &str, manifest: &str) -> Member {
        Member { folder: folder.into(), manifest: manifest.parse().unwrap() }
    }

    fn errors(members: &[Member]) -> Vec<String> {
        let mut findings = Findings::default();
        let nowhere = tempfile::tempdir().unwrap();
        check(nowhere.path(), members, &mut findings).unwrap();
        findings.errors
    }

    #[test]
    fn imports_upward_and_second_doors_are_found() {
        let lints = "[lints]\nworkspace = true\n";
        let house = |machines: &str, node: &str, sim: &str| {
            [
                member("machines", &format!("[package]\nname = \"machines\"\n{lints}{machines}")),
                member("io/node", &format!("[package]\nname = \"io-node\"\n{lints}{node}")),
                member("sim", &format!("[package]\nname = \"sim\"\n{lints}{sim}")),
            ]
        };
        let clean = house("[dependencies]\nblake3 = \"1\"", "[dependencies]\nmachines = {}", "");
        assert_eq!(errors(&clean), Vec::<String>::new());
        for (machines, node, sim, what) in [
            ("[dependencies]\nio-node = {}", "", "", "may not import `io-node`"),
            ("[dependencies]\ntokio = \"1\"", "", "", "`tokio` is not on the list"),
            ("[dependencies]\nclock = { package = \"chrono\", version = \"0.4\" }", "", "", "`chrono` is not on"),
            ("", "[dependencies]\nsim = {}", "", "may not import `sim`"),
            ("", "[dependencies]\nregorus = \"0.14\"", "", "only io/policy"),
            ("", "[target.'cfg(unix)'.dependencies]\nregorus = \"0.14\"", "", "only io/policy"),
            ("", "", "[dependencies]\nio-node = {}", "may not import `io-node`"),
        ] {
            let found = errors(&house(machines, node, sim));
            assert!(found.len() == 1 && found[0].contains(what), "{what}: {found:?}");
        }
        let daemons = |other: &str| {
            [
                member("daemons/common", &format!("[package]\nname = \"daemon-common\"\n{lints}")),
                member("daemons/other", &format!("[package]\nname = \"other\"\n{lints}")),
                member("daemons/one", &format!("[package]\nname = \"one\"\n{lints}[dependencies]\n{other} = {{}}")),
            ]
        };
        assert_eq!(errors(&daemons("daemon-common")), Vec::<String>::new());
        assert!(errors(&daemons("other"))[0].contains("Daemons may not import `other`"));
        let bare = [member("sim", "[package]\nname = \"sim\"")];
        assert!(errors(&bare)[0].contains("unsafe_code"));
    }
}
