use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use machines::disk::{Lock, Replaced, replace};
use machines::ids::Hash32;

use super::*;

fn layout(root: &Path) -> Layout {
    Layout::new(root, None, None)
}

fn open(root: &Path) -> Disk {
    Disk::open(&layout(root), Arc::new(())).unwrap()
}

fn ok(disk: &Disk, chain: Vec<Op>) -> Done {
    disk.execute(chain).unwrap()
}

fn fault(disk: &Disk, chain: Vec<Op>) -> Fault {
    disk.execute(chain).unwrap_err()
}

fn live(disk: &Disk, bytes: &[u8]) {
    ok(
        disk,
        vec![Op::Put { file: File::Live, bytes: bytes.to_vec() }, Op::Sync(File::Live), Op::SyncDir(Dir::Telemetry)],
    );
}

fn append(at: u64, bytes: &[u8]) -> Op {
    Op::Append { file: File::Live, at, bytes: bytes.to_vec() }
}

#[test]
fn a_chain_runs_in_order_and_ends_at_its_first_fault() {
    let root = tempfile::tempdir().unwrap();
    let disk = open(root.path());
    live(&disk, b"one");
    let chain = vec![append(3, b"two"), Op::Publish(Seq::FIRST), append(6, b"three")];
    assert_eq!(fault(&disk, chain), Fault { step: 1, kind: FaultKind::NotFound });
    let read = Op::Read { file: File::Live, at: 1, len: 100 };
    assert_eq!(ok(&disk, vec![read]), Done::Bytes(b"netwo".to_vec()));
    let tail = Op::ReadTail { file: File::Live, len: 2 };
    assert_eq!(ok(&disk, vec![tail]), Done::Tail { total: 6, bytes: b"wo".to_vec() });
}

#[test]
fn files_are_private_and_folders_are_made_private_and_listed_by_name() {
    let root = tempfile::tempdir().unwrap();
    let disk = open(&root.path().join("new/state"));
    live(&disk, b"x");
    let telemetry = root.path().join("new/state/telemetry");
    assert_eq!(telemetry.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(telemetry.join("telemetry.wal").metadata().unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::write(telemetry.join("not-ours.txt"), b"y").unwrap();
    assert_eq!(ok(&disk, vec![Op::List]), Done::Listing(vec![(File::Live, 1)]));
}

#[test]
fn d19_a_replaced_file_is_the_old_one_or_the_new_one() {
    let root = tempfile::tempdir().unwrap();
    let disk = open(root.path());
    for content in [&b"first"[..], b"second"] {
        ok(&disk, replace(Replaced::Activation, content.to_vec()));
        assert_eq!(std::fs::read(root.path().join("activation.json")).unwrap(), content);
    }
    let digest = Hash32([7; 32]);
    ok(&disk, replace(Replaced::Bundle(digest), b"bundle".to_vec()));
    assert!(root.path().join(format!("policy/bundles/{digest}.tar.gz")).exists());
    let names: Vec<_> = std::fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().ends_with(".tmp")), "{names:?}");
}

#[test]
fn the_safe_point_is_eight_bytes_overwritten_in_place() {
    let root = tempfile::tempdir().unwrap();
    let disk = open(root.path());
    ok(&disk, replace(Replaced::SafeSeq, vec![0; 8]));
    ok(&disk, vec![Op::Publish(Seq::new(258).unwrap()), Op::Sync(File::SafeSeq)]);
    assert_eq!(std::fs::read(root.path().join("telemetry/telemetry.safe_seq")).unwrap(), [2, 1, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn d26_a_file_that_was_cut_replaced_or_removed_under_the_writer_is_noticed() {
    let wal = |root: &Path| root.join("telemetry/telemetry.wal");
    let interfere: [&dyn Fn(&Path); 4] = [
        &|path| std::fs::File::options().write(true).open(path).unwrap().set_len(2).unwrap(),
        &|path| {
            std::fs::OpenOptions::new()
                .append(true)
                .open(path)
                .map(|mut f| std::io::Write::write_all(&mut f, b"z").unwrap())
                .unwrap()
        },
        &|path| std::fs::remove_file(path).unwrap(),
        &|path| {
            std::fs::copy(path, path.with_extension("copy")).unwrap();
            std::fs::rename(path.with_extension("copy"), path).unwrap();
        },
    ];
    for interfere in interfere {
        let root = tempfile::tempdir().unwrap();
        let disk = open(root.path());
        live(&disk, b"one");
        interfere(&wal(root.path()));
        assert_eq!(fault(&disk, vec![append(3, b"two")]), Fault { step: 0, kind: FaultKind::Changed });
    }
    // Between the write and the end of the sync, too.
    for interfere in [interfere[0], interfere[2]] {
        let root = tempfile::tempdir().unwrap();
        let disk = open(root.path());
        live(&disk, b"one");
        ok(&disk, vec![append(3, b"two")]);
        interfere(&wal(root.path()));
        assert_eq!(fault(&disk, vec![Op::Sync(File::Live)]).kind, FaultKind::Changed);
    }
}

#[test]
fn d27_a_link_in_place_of_a_folder_or_file_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    symlink(elsewhere.path(), root.path().join("telemetry")).unwrap();
    for given in [root.path().join("telemetry"), root.path().join("telemetry/")] {
        let refused = Disk::open(&Layout::new(root.path(), Some(&given), None), Arc::new(())).err().unwrap();
        assert!(matches!(&refused, OpenError::NotAFolder(_)), "{refused}");
    }
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);

    std::fs::remove_file(root.path().join("telemetry")).unwrap();
    let disk = open(root.path());
    std::fs::write(elsewhere.path().join("target"), b"").unwrap();
    symlink(elsewhere.path().join("target"), root.path().join("telemetry/telemetry.wal")).unwrap();
    assert!(matches!(fault(&disk, vec![append(0, b"x")]).kind, FaultKind::Io(_)));
    live(&disk, b"x");
    assert_eq!(std::fs::read(elsewhere.path().join("target")).unwrap(), b"");
}

#[test]
fn d27_a_running_writer_keeps_its_folder() {
    let root = tempfile::tempdir().unwrap();
    let disk = open(root.path());
    live(&disk, b"one");
    std::fs::rename(root.path().join("telemetry"), root.path().join("moved")).unwrap();
    symlink("/", root.path().join("telemetry")).unwrap();
    ok(&disk, vec![append(3, b"two"), Op::Sync(File::Live)]);
    assert_eq!(std::fs::read(root.path().join("moved/telemetry.wal")).unwrap(), b"onetwo");
}

#[test]
fn x06_a_pipe_in_place_of_a_file_does_not_hold_us_up() {
    let root = tempfile::tempdir().unwrap();
    let disk = open(root.path());
    let made = std::process::Command::new("mkfifo").arg(root.path().join("activation.json")).status().unwrap();
    assert!(made.success());
    let read = Op::Read { file: File::Activation, at: 0, len: 10 };
    assert!(matches!(fault(&disk, vec![read]).kind, FaultKind::Io(_)));
}

/// `/dev/full` gives the real error of a full disk without one.
#[test]
fn d05_d07_after_a_failed_write_none_is_issued_again_on_that_file() {
    let full = std::fs::File::options().read(true).write(true).open("/dev/full").unwrap();
    let open = file::Open::new(full.into(), None, Arc::new(()));
    assert_eq!(open.append(0, b"x"), Err(FaultKind::NoSpace));
    assert!(open.is_broken());
    // The device is not asked again: an empty append would succeed on it.
    assert_eq!(open.append(0, b""), Err(FaultKind::NoSpace));
    assert_eq!(open.sync(), Err(FaultKind::NoSpace));
    assert_eq!(open.truncate(0), Err(FaultKind::NoSpace));
}

#[test]
fn d06_what_failed_stays_failed_under_its_new_name() {
    let root = tempfile::tempdir().unwrap();
    let disk = open(root.path());
    live(&disk, b"one");
    let full = std::fs::File::options().read(true).write(true).open("/dev/full").unwrap();
    let broken = Arc::new(file::Open::new(full.into(), None, Arc::new(())));
    broken.append(0, b"x").unwrap_err();
    lock(&disk.open).insert(File::Live, broken);
    let sealed = File::Sealed(Seq::FIRST);
    ok(&disk, vec![Op::Rename { from: File::Live, to: sealed }]);
    assert_eq!(fault(&disk, vec![Op::Sync(sealed)]).kind, FaultKind::NoSpace);
    // A new file under the old name is another file.
    live(&disk, b"two");
}

#[test]
fn d09_the_meter_sees_syncs() {
    #[derive(Default)]
    struct Count(AtomicUsize);
    impl Meter for Count {
        fn synced(&self, _took: Duration) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        fn continued(&self) {}
    }
    let root = tempfile::tempdir().unwrap();
    let count = Arc::new(Count::default());
    let disk = Disk::open(&layout(root.path()), Arc::<Count>::clone(&count)).unwrap();
    live(&disk, b"one");
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
}

#[test]
fn the_activation_lock_is_waited_for_and_given_back() {
    let root = tempfile::tempdir().unwrap();
    let (one, two) = (open(root.path()), Arc::new(open(root.path())));
    ok(&one, vec![Op::Lock(Lock::Activation)]);
    let (tell, told) = std::sync::mpsc::channel();
    let waiter = {
        let two = Arc::clone(&two);
        std::thread::spawn(move || {
            tell.send(two.execute(vec![Op::Lock(Lock::Activation), Op::Unlock(Lock::Activation)])).unwrap()
        })
    };
    assert!(told.recv_timeout(Duration::from_millis(50)).is_err());
    ok(&one, vec![Op::Unlock(Lock::Activation)]);
    assert_eq!(told.recv_timeout(Duration::from_secs(10)).unwrap(), Ok(Done::Nothing));
    waiter.join().unwrap();
}

#[test]
fn activation_json_lies_beside_a_policy_folder_that_was_given_apart() {
    let root = tempfile::tempdir().unwrap();
    let apart = root.path().join("elsewhere");
    assert_eq!(PolicyLayout::new(root.path(), Some(&apart)).activation, apart);
    assert_eq!(PolicyLayout::new(root.path(), None).activation, root.path());
    let usual = root.path().join("policy");
    assert_eq!(PolicyLayout::new(root.path(), Some(&usual)).activation, root.path());
}

#[test]
fn a_command_that_only_looks_makes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let missing = root.path().join("missing");
    assert!(matches!(Disk::open_existing(&Layout::log(&missing)), Err(OpenError::Open(..))));
    assert!(!missing.exists());
    let disk = Disk::open_existing(&Layout::log(root.path())).unwrap();
    assert_eq!(ok(&disk, vec![Op::List]), Done::Listing(vec![]));
    assert_eq!(fault(&disk, vec![Op::Read { file: File::Activation, at: 0, len: 1 }]).kind, FaultKind::NotFound);
}

#[test]
fn what_is_read_ahead_of_a_reader_is_not_kept_from_later_changes() {
    const WINDOW: usize = 1 << 20;
    let root = tempfile::tempdir().unwrap();
    let disk = open(root.path());
    let windows = [b'a', b'b', b'c'];
    live(&disk, &windows.map(|byte| vec![byte; WINDOW]).concat());
    let read = |window: usize| {
        let at = u64::try_from(window * WINDOW).unwrap();
        ok(&disk, vec![Op::Read { file: File::Live, at, len: u32::try_from(WINDOW).unwrap() }])
    };
    assert_eq!(read(0), Done::Bytes(vec![b'a'; WINDOW]));
    // Time for the thread to have fetched all of it.
    std::thread::sleep(Duration::from_millis(50));
    let path = root.path().join("telemetry/telemetry.wal");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[2 * WINDOW..].fill(b'x');
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(read(1), Done::Bytes(vec![b'b'; WINDOW]));
    assert_eq!(read(2), Done::Bytes(vec![b'x'; WINDOW]));
    // Another file under the same name.
    std::fs::rename(&path, root.path().join("old")).unwrap();
    std::fs::write(&path, vec![b'n'; 2 * WINDOW]).unwrap();
    assert_eq!(read(1), Done::Bytes(vec![b'n'; WINDOW]));
    assert_eq!(read(2), Done::Bytes(Vec::new()));
}
