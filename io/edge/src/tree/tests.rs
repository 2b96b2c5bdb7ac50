use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use machines::tree::{self, Path as TreePath};
use tempfile::TempDir;

use super::*;

fn at(path: &str) -> Place {
    Place::state(TreePath::parse(path).unwrap())
}

fn put(path: &str, bytes: &[u8]) -> Op {
    Op::Put { at: at(path), bytes: bytes.to_vec(), mode: Mode::PRIVATE }
}

fn copy(from: &str, to: &str) -> Op {
    Op::Copy { from: at(from), to: at(to), mode: Mode::PRIVATE }
}

fn rename(from: &str, to: &str) -> Op {
    Op::Rename { from: at(from), to: at(to) }
}

fn kind_of(tree: &mut Tree, op: Op) -> FaultKind {
    let words = format!("{op:?}");
    tree.run(vec![op]).expect_err(&words).kind
}

/// A state root in a folder that holds a secret, with openat2 and with the walk.
fn both(test: impl Fn(Tree, &Path)) {
    for walks in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(folder.path().join("secret"), "secret").unwrap();
        let mut tree = Tree::new(&root, Vec::new());
        tree.walks = walks;
        tree.run(vec![Op::Open(Root::State)]).unwrap();
        test(tree, &root);
        assert_eq!(std::fs::read(folder.path().join("secret")).unwrap(), b"secret");
        let mut names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.retain(|name| name != "outside");
        assert_eq!(names.len(), 2, "{names:?}");
    }
}

#[test]
fn f02_f03_nothing_is_written_or_given_a_mode_through_a_link() {
    both(|mut tree, root| {
        symlink("../secret", root.join("file")).unwrap();
        symlink("..", root.join("folder")).unwrap();
        std::fs::write(root.join("own"), "own").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode();
        let (above, secret) = (mode(root.parent().unwrap()), mode(&root.join("../secret")));
        for op in [
            put("file", b"x"),
            put("folder/new", b"x"),
            copy("own", "file"),
            copy("own", "folder/secret"),
            Op::MakeFolder { at: at("folder"), mode: Mode::new(0o777).unwrap() },
            Op::MakeFolder { at: at("folder/new"), mode: Mode::new(0o777).unwrap() },
            Op::MakeFolder { at: at("file"), mode: Mode::new(0o777).unwrap() },
            Op::Link { at: at("folder/new"), target: "x".into() },
            rename("own", "folder/secret"),
            rename("folder/secret", "mine"),
            Op::Exchange { a: at("own"), b: at("folder/secret") },
            Op::Remove(at("folder/secret")),
            Op::RemoveFolder(at("folder/root")),
            Op::Read { at: at("file"), most: 9 },
            Op::Look(at("folder/secret")),
            Op::List { at: at("folder"), most: 9 },
        ] {
            assert_eq!(kind_of(&mut tree, op), FaultKind::Refused);
        }
        assert_eq!((mode(root.parent().unwrap()), mode(&root.join("../secret"))), (above, secret));
        tree.run(vec![rename("own", "file")]).unwrap();
        assert_eq!(std::fs::read(root.join("file")).unwrap(), b"own", "the link itself was replaced");
    });
}

#[test]
fn f04_fifos_sockets_and_folders_are_no_files_and_are_not_waited_for() {
    both(|mut tree, root| {
        let rw = Bits::RUSR | Bits::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, root.join("fifo"), FileType::Fifo, rw, 0).unwrap();
        let socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        std::fs::create_dir(root.join("folder")).unwrap();
        for name in ["fifo", "socket", "folder"] {
            for op in [
                Op::Read { at: at(name), most: 9 },
                Op::Hash(at(name)),
                copy(name, "copy"),
                Op::Sync(at(name)),
                put(name, b"x"),
            ] {
                assert_eq!(kind_of(&mut tree, op), FaultKind::Refused, "{name}");
            }
        }
        drop(socket);
        let Ok(Done::Names(names)) = tree.run(vec![Op::List { at: Place::top(Root::State), most: 9 }]) else {
            panic!()
        };
        let names: Vec<_> = names.iter().map(|(name, kind)| (name.as_str(), kind)).collect();
        assert_eq!(names, [("fifo", &Kind::Other), ("folder", &Kind::Folder), ("socket", &Kind::Other)]);
    });
}

#[test]
fn f09_folders_that_are_swapped_for_links_meanwhile_lead_nowhere() {
    both(|mut tree, root| {
        let outside = root.parent().unwrap().join("outside");
        std::fs::create_dir_all(outside.join("deep")).unwrap();
        std::fs::write(outside.join("name"), "outside").unwrap();
        std::fs::create_dir_all(root.join("folder/deep")).unwrap();
        std::fs::write(root.join("folder/name"), "inside").unwrap();
        std::fs::write(root.join("own"), "own").unwrap();
        symlink(&outside, root.join("link")).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let racer = std::thread::spawn({
            let (over, root) = (Arc::clone(&over), File::open(root).unwrap());
            move || {
                while !over.load(Ordering::Relaxed) {
                    place::exchanged((&root, "folder"), (&root, "link")).unwrap();
                }
            }
        });
        let (mut done, mut refused) = (0_u32, 0_u32);
        for turn in 0..30_000 {
            let op = match turn % 8 {
                0 => put("folder/new", b"x"),
                1 => copy("own", "folder/deep/new"),
                2 => Op::MakeFolder { at: at("folder/made"), mode: Mode::new(0o711).unwrap() },
                3 => Op::Link { at: at("folder/deep/link"), target: "x".into() },
                4 => rename("folder/new", "folder/deep/renamed"),
                5 => Op::Remove(at("folder/deep/new")),
                6 => Op::Remove(at("folder/deep/link")),
                _ => Op::Read { at: at("folder/name"), most: 9 },
            };
            match tree.run(vec![op]) {
                Ok(Done::Bytes(bytes)) => {
                    assert_eq!(bytes, b"inside");
                    done += 1;
                }
                Ok(_) => done += 1,
                Err(_) => refused += 1,
            }
        }
        over.store(true, Ordering::Relaxed);
        racer.join().unwrap();
        assert!(done > 0 && refused > 0, "the race was run: {done} done, {refused} refused");
        let mut left: Vec<_> = std::fs::read_dir(&outside).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["deep", "name"], "nothing outside was made");
        assert_eq!(std::fs::read_dir(outside.join("deep")).unwrap().count(), 0);
        assert_eq!(std::fs::read(outside.join("name")).unwrap(), b"outside");
    });
}

#[test]
fn f11_a_rename_over_a_folder_or_to_another_device_is_a_fault_of_its_own() {
    both(|mut tree, root| {
        std::fs::create_dir_all(root.join("full/inner")).unwrap();
        std::fs::create_dir(root.join("empty")).unwrap();
        std::fs::write(root.join("own"), "own").unwrap();
        for (from, to) in [("own", "empty"), ("own", "full"), ("empty", "full"), ("full", "empty"), ("full", "own")] {
            assert_eq!(kind_of(&mut tree, rename(from, to)), FaultKind::Refused, "{from} over {to}");
        }
        let elsewhere = Place { root: Root::Allowed(0), path: TreePath::parse("own").unwrap() };
        assert_eq!(kind_of(&mut tree, Op::Rename { from: at("own"), to: elsewhere }), FaultKind::Refused);
        assert_eq!(std::fs::read(root.join("own")).unwrap(), b"own");
    });
    assert_eq!(of_rename(Errno::XDEV), FaultKind::Io(18));
    assert_eq!(of_errno(Errno::XDEV), FaultKind::Refused);
    // Where this machine has a second file system that may be written.
    let (Ok(one), Ok(two)) = (tempfile::tempdir_in("/var/tmp"), tempfile::tempdir_in("/dev/shm")) else { return };
    if one.path().metadata().unwrap().dev() == two.path().metadata().unwrap().dev() {
        return;
    }
    std::fs::write(one.path().join("own"), "own").unwrap();
    let mut tree = Tree::new("/", Vec::new());
    tree.run(vec![Op::Open(Root::State)]).unwrap();
    let beneath = |folder: &TempDir| folder.path().strip_prefix("/").unwrap().join("own").to_str().unwrap().to_owned();
    assert_eq!(kind_of(&mut tree, rename(&beneath(&one), &beneath(&two))), FaultKind::Io(18));
    assert_eq!(std::fs::read(one.path().join("own")).unwrap(), b"own");
}

#[test]
fn f12_what_others_may_write_and_what_is_not_ours_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let opened = |mode: u32| {
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        Tree::new(folder.path(), Vec::new()).open(Root::State).unwrap()
    };
    for mode in [0o700, 0o770, 0o777, 0o1777] {
        let want = Opened { ours: true, mode: u16::try_from(mode).unwrap(), writable: true };
        assert_eq!(opened(mode), want);
    }
    // Nobody may write here, also not the superuser.
    let mut proc = Tree::new("/proc/self", Vec::new());
    assert_eq!(proc.open(Root::State), Err(FaultKind::Refused), "a link");
    let kernels = Tree::new(format!("/proc/{}", std::process::id()), Vec::new()).open(Root::State).unwrap();
    assert_eq!(kernels.mode & 0o222, 0);
    let superuser = rustix::process::geteuid().is_root();
    let closed = opened(0o500);
    assert_eq!(closed.writable, superuser, "as the kernel will judge");
    assert_eq!(Tree::new(folder.path().join("none"), Vec::new()).open(Root::State), Err(FaultKind::NotFound));
}

#[test]
fn f13_magic_links_of_proc_lead_nowhere() {
    for walks in [false, true] {
        let mut tree = Tree::new(format!("/proc/{}", std::process::id()), Vec::new());
        tree.walks = walks;
        tree.run(vec![Op::Open(Root::State)]).unwrap();
        let outside = File::open("/etc/passwd").unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&outside);
        for path in [format!("fd/{fd}"), "root/etc/passwd".into(), "cwd/Cargo.toml".into(), "exe".into()] {
            assert_eq!(kind_of(&mut tree, Op::Read { at: at(&path), most: 1 << 20 }), FaultKind::Refused, "{path}");
        }
        assert_eq!(tree.run(vec![Op::Look(at("exe"))]), Ok(Done::Is(Kind::Link)));
        assert!(tree.run(vec![Op::Read { at: at("status"), most: 1 << 20 }]).is_ok());
    }
}

#[test]
fn f14_a_temporary_file_that_somebody_laid_or_swapped_is_never_put_in_place() {
    both(|mut tree, root| {
        for planted in ["file", "link", "dangling"] {
            let temp = root.join(".own.tmp");
            match planted {
                "file" => std::fs::write(&temp, "planted").unwrap(),
                "link" => symlink("../secret", &temp).unwrap(),
                _ => symlink("../new", &temp).unwrap(),
            }
            assert_eq!(kind_of(&mut tree, put(".own.tmp", b"x")), FaultKind::Refused, "{planted}");
            tree.run(tree::replace(&at("own"), b"own".to_vec(), Mode::PRIVATE)).unwrap();
            assert_eq!(std::fs::read(root.join("own")).unwrap(), b"own");
        }
        tree.run(vec![put(".own.tmp", b"written")]).unwrap();
        std::fs::write(root.join("planted"), "planted").unwrap();
        std::fs::rename(root.join("planted"), root.join(".own.tmp")).unwrap();
        assert_eq!(kind_of(&mut tree, Op::Sync(at(".own.tmp"))), FaultKind::Changed);
        assert_eq!(kind_of(&mut tree, rename(".own.tmp", "own")), FaultKind::Changed);
        assert_eq!(std::fs::read(root.join("own")).unwrap(), b"own");
        tree.run(vec![Op::Remove(at(".own.tmp"))]).unwrap();
        tree.run(tree::replace(&at("own"), b"new".to_vec(), Mode::PRIVATE)).unwrap();
        assert_eq!(std::fs::read(root.join("own")).unwrap(), b"new");
    });
}

#[test]
fn f15_a_file_that_grows_or_is_cut_while_it_is_read_is_consistent_or_refused() {
    both(|mut tree, root| {
        let source = root.join("source");
        std::fs::write(&source, vec![1; 300_000]).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let racer = std::thread::spawn({
            let (over, file) = (Arc::clone(&over), File::options().write(true).open(&source).unwrap());
            move || {
                let mut grown = false;
                while !over.load(Ordering::Relaxed) {
                    grown = !grown;
                    file.set_len(if grown { 3_000_000 } else { 300_000 }).unwrap();
                }
            }
        });
        let (mut whole, mut changed) = (0, 0);
        // The race has two sides, and each is to be seen; the bound is for a machine on which one is not.
        for _ in 0..20_000 {
            if whole > 20 && changed > 20 {
                break;
            }
            match tree.run(vec![Op::Remove(at("copy")), copy("source", "copy")]) {
                Ok(Done::Hash(hash, len)) => {
                    whole += 1;
                    let written = std::fs::read(root.join("copy")).unwrap();
                    assert_eq!(len, u64::try_from(written.len()).unwrap());
                    assert_eq!(hash.0, *blake3::hash(&written).as_bytes(), "the hash is of what was written");
                    assert!(matches!(len, 300_000 | 3_000_000), "{len}");
                }
                Ok(other) => panic!("{other:?}"),
                Err(fault) => {
                    changed += 1;
                    assert_eq!(fault, Fault { step: 1, kind: FaultKind::Changed });
                }
            }
            let _ = tree.run(vec![Op::Hash(at("source"))]);
        }
        over.store(true, Ordering::Relaxed);
        racer.join().unwrap();
        assert!(whole > 0 && changed > 0, "{whole} whole, {changed} changed");
    });
}

#[test]
fn b10_the_lock_of_a_state_root_is_one_processs_until_it_ends() {
    const ROOT: &str = "EDGE_TEST_STATE_ROOT";
    if let Some(root) = std::env::var_os(ROOT) {
        // The other process.
        let fault = Tree::new(root, Vec::new()).hold().expect_err("somebody has it");
        assert_eq!(fault, Fault { step: 1, kind: FaultKind::Held });
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut first = Tree::new(folder.path(), Vec::new());
    first.hold().unwrap();
    first.hold().unwrap();
    let mut second = Tree::new(folder.path(), Vec::new());
    let held = Fault { step: 1, kind: FaultKind::Held };
    assert_eq!(second.run(vec![Op::Open(Root::State), Op::Lock]), Err(held));
    let other = || {
        let name = "tree::tests::b10_the_lock_of_a_state_root_is_one_processs_until_it_ends";
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", name]).env(ROOT, folder.path()).output().unwrap()
    };
    let output = other();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    drop(first);
    assert!(!other().status.success(), "nobody has it: the other process gets it");
    assert_eq!(second.run(vec![Op::Lock]), Ok(Done::Nothing));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is made for the lock");
}

#[test]
fn a_sync_that_failed_and_a_write_that_failed_are_not_issued_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut tree = Tree::new(folder.path(), Vec::new());
    tree.run(vec![Op::Open(Root::State), put("own", b"x")]).unwrap();
    tree.run(vec![Op::Sync(at("own"))]).unwrap();
    assert_eq!(tree.syncs(), 1);
    // As after an error of the device.
    tree.kept.get_mut(&at("own")).unwrap().failed = Some(FaultKind::Io(5));
    assert_eq!(kind_of(&mut tree, Op::Sync(at("own"))), FaultKind::Io(5));
    assert_eq!(tree.syncs(), 1, "the kernel was not asked again");
    tree.run(vec![Op::Remove(at("own")), put("own", b"y"), Op::Sync(at("own"))]).unwrap();
    assert_eq!(tree.syncs(), 2);
    for n in 0..2 * MOST_KEPT {
        tree.run(vec![put(&format!("file{n}"), b"x")]).unwrap();
    }
    assert_eq!(tree.kept.len(), MOST_KEPT, "descriptors are bounded");
    tree.run(vec![Op::Sync(at("file0")), Op::SyncFolder(Place::top(Root::State))]).unwrap();
    assert_eq!(tree.syncs(), 4);
}

#[test]
fn a_name_that_is_no_text_is_shown_as_one_that_no_path_can_have() {
    use std::os::unix::ffi::OsStrExt as _;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(std::ffi::OsStr::from_bytes(b"a\xff")), "x").unwrap();
    let mut tree = Tree::new(folder.path(), Vec::new());
    let list = Op::List { at: Place::top(Root::State), most: 1 };
    let Ok(Done::Names(names)) = tree.run(vec![Op::Open(Root::State), list]) else { panic!() };
    assert!(names.len() == 1 && TreePath::parse(&names[0].0).is_err(), "{names:?}");
}

#[test]
fn b05_a_folder_that_holds_the_state_root_or_lies_in_it_is_not_opened_however_it_is_spelled() {
    let scratch = tempfile::tempdir().unwrap();
    let state = scratch.path().join("state");
    for folder in ["state/epoch", "beside"] {
        std::fs::create_dir_all(scratch.path().join(folder)).unwrap();
    }
    std::os::unix::fs::symlink(".", scratch.path().join("l")).unwrap();
    let spelled = ["state", "l/state", "l/state/epoch", "l/l", "beside/.."];
    for (path, opens) in spelled.iter().map(|path| (*path, false)).chain([("beside", true), ("l/beside", true)]) {
        let mut tree = Tree::new(&state, vec![scratch.path().join(path)]);
        tree.run(vec![Op::Open(Root::State)]).unwrap();
        let opened = tree.run(vec![Op::Open(Root::Allowed(0))]);
        assert_eq!(opened.is_ok(), opens, "{path}: {opened:?}");
    }
}
