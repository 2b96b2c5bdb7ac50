//! One suite for the contract of `machines::tree`, run against the simulated tree here and against real files by the crate
//! that holds them.
//!
//! A driver is a function that runs one chain over an empty state root of the caller's own, mode 0700, that was not opened
//! yet. Each check works in a folder of its own, so that one root serves all of them.

use machines::disk::FaultKind;
use machines::ids::Hash32;
use machines::tree::{self, Completion, Done, Fault, Kind, Mode, Op, Opened, Path, Place, Root};

/// Runs one chain.
pub type Run<'a> = &'a mut dyn FnMut(Vec<Op>) -> Completion;

/// A check: what is wrong, in words. It is given an empty folder.
pub type Check = fn(Run<'_>, &Place) -> Result<(), String>;

/// Every check with its name.
pub const CHECKS: &[(&str, Check)] = &[
    ("operations run in order", operations_run_in_order),
    ("the first failure ends a chain and is named", first_failure_ends_the_chain),
    ("a root that is opened again is the same", opened_again),
    ("the lock is the holder's own", lock_is_ones_own),
    ("look tells what is there", look_tells_kinds),
    ("list is sorted and bounded", list_is_sorted_and_bounded),
    ("read is bounded", read_is_bounded),
    ("hash tells the bytes and their length", hash_of_bytes),
    ("put and copy make what was not there", creation_is_exclusive),
    ("modes are as given", modes_are_as_given),
    ("copy tells what it wrote", copy_tells_what_it_wrote),
    ("a folder that is there gets the mode", folders_get_their_mode),
    ("replace gives the new bytes under the name alone", replace_replaces),
    ("f11 nothing is renamed over a folder", f11_nothing_is_renamed_over_a_folder),
    ("a folder is renamed to a name that is free", folders_are_renamed),
    ("exchange changes two names at once", exchange_exchanges),
    ("remove is lenient about what is not there", remove_is_lenient),
    ("missing files are named as missing", missing_is_not_found),
    ("f02 f09 links are not followed at any place", links_are_not_followed),
    ("what is no regular file is refused", only_regular_files),
    ("a root has no name of its own", a_root_is_no_file),
];

/// Runs every check.
///
/// # Errors
/// The name of the first check that failed, and why.
pub fn conformance(tree: Run<'_>) -> Result<(), String> {
    unopened(tree).map_err(|why| format!("a root that was not opened holds nothing: {why}"))?;
    match tree(vec![Op::Open(Root::State)]) {
        Ok(Done::Opened(Opened { ours: true, mode: 0o700, writable: true })) => {}
        other => return Err(format!("opening the state root: {other:?}")),
    }
    for (n, (name, check)) in CHECKS.iter().enumerate() {
        let folder = Place::top(Root::State).join(&format!("check-{n}")).map_err(|why| why.to_string())?;
        let run = |tree: Run<'_>| {
            nothing(tree, vec![Op::MakeFolder { at: folder.clone(), mode: Mode::PRIVATE_FOLDER }])?;
            check(tree, &folder)
        };
        run(&mut *tree).map_err(|why| format!("{name}: {why}"))?;
    }
    Ok(())
}

fn want<T: PartialEq + std::fmt::Debug>(what: &str, got: &T, wanted: &T) -> Result<(), String> {
    if got == wanted { Ok(()) } else { Err(format!("{what}: got {got:?}, wanted {wanted:?}")) }
}

fn nothing(tree: Run<'_>, chain: Vec<Op>) -> Result<(), String> {
    let words = format!("{chain:?}");
    want(&words, &tree(chain), &Ok(Done::Nothing))
}

fn fails(tree: Run<'_>, op: Op, kind: FaultKind) -> Result<(), String> {
    let words = format!("{op:?}");
    want(&words, &tree(vec![op]), &Err(Fault { step: 0, kind }))
}

fn refused(tree: Run<'_>, op: Op) -> Result<(), String> {
    fails(tree, op, FaultKind::Refused)
}

/// A path beneath the check's folder.
fn at(folder: &Place, path: &str) -> Result<Place, String> {
    let text = format!("{}/{path}", folder.path);
    Ok(Place { root: folder.root, path: Path::parse(&text).map_err(|why| why.to_string())? })
}

fn put(at: &Place, bytes: &[u8]) -> Op {
    Op::Put { at: at.clone(), bytes: bytes.to_vec(), mode: Mode::PRIVATE }
}

fn folder(at: &Place) -> Op {
    Op::MakeFolder { at: at.clone(), mode: Mode::PRIVATE_FOLDER }
}

fn link(at: &Place, target: &str) -> Op {
    Op::Link { at: at.clone(), target: target.into() }
}

fn holds(tree: Run<'_>, at: &Place, bytes: &[u8]) -> Result<(), String> {
    let got = tree(vec![Op::Read { at: at.clone(), most: 1 << 20 }]);
    want(&format!("bytes of {}", at.path), &got, &Ok(Done::Bytes(bytes.to_vec())))
}

fn is(tree: Run<'_>, at: &Place, kind: Kind) -> Result<(), String> {
    want(&format!("what {} is", at.path), &tree(vec![Op::Look(at.clone())]), &Ok(Done::Is(kind)))
}

fn file(len: u64, mode: u16) -> Kind {
    Kind::File { len, mode }
}

fn hash_is(bytes: &[u8]) -> Done {
    Done::Hash(Hash32(*blake3::hash(bytes).as_bytes()), u64::try_from(bytes.len()).unwrap_or(u64::MAX))
}

fn unopened(tree: Run<'_>) -> Result<(), String> {
    for op in [Op::Lock, Op::Look(Place::top(Root::State)), Op::Open(Root::Allowed(u16::MAX))] {
        let words = format!("{op:?}");
        if let Ok(done) = tree(vec![op]) {
            return Err(format!("{words}: {done:?}"));
        }
    }
    Ok(())
}

fn operations_run_in_order(tree: Run<'_>, top: &Place) -> Result<(), String> {
    let (a, b) = (at(top, "a")?, at(top, "b")?);
    let chain = vec![
        put(&a, b"one"),
        Op::Sync(a.clone()),
        Op::Rename { from: a.clone(), to: b.clone() },
        Op::SyncFolder(top.clone()),
        Op::Read { at: b, most: 3 },
    ];
    want("bytes", &tree(chain), &Ok(Done::Bytes(b"one".to_vec())))?;
    is(tree, &a, Kind::Nothing)
}

fn first_failure_ends_the_chain(tree: Run<'_>, top: &Place) -> Result<(), String> {
    let (a, b) = (at(top, "a")?, at(top, "b")?);
    let got = tree(vec![put(&a, b"one"), put(&a, b"two"), put(&b, b"three")]);
    want("completion", &got, &Err(Fault { step: 1, kind: FaultKind::Refused }))?;
    holds(tree, &a, b"one")?;
    is(tree, &b, Kind::Nothing)
}

fn opened_again(tree: Run<'_>, _: &Place) -> Result<(), String> {
    let opened = Opened { ours: true, mode: 0o700, writable: true };
    want("opened", &tree(vec![Op::Open(Root::State)]), &Ok(Done::Opened(opened)))
}

fn lock_is_ones_own(tree: Run<'_>, _: &Place) -> Result<(), String> {
    nothing(tree, vec![Op::Lock])?;
    nothing(tree, vec![Op::Lock])
}

fn look_tells_kinds(tree: Run<'_>, top: &Place) -> Result<(), String> {
    let (a, b, c) = (at(top, "file")?, at(top, "folder")?, at(top, "link")?);
    nothing(tree, vec![put(&a, b"four"), folder(&b), link(&c, "nowhere")])?;
    is(tree, &a, file(4, 0o600))?;
    is(tree, &b, Kind::Folder)?;
    is(tree, &c, Kind::Link)?;
    is(tree, &Place::top(Root::State), Kind::Folder)?;
    is(tree, &at(top, "none")?, Kind::Nothing)?;
    is(tree, &at(top, "none/at/all")?, Kind::Nothing)?;
    refused(tree, Op::Look(at(top, "file/below")?))
}

fn list_is_sorted_and_bounded(tree: Run<'_>, top: &Place) -> Result<(), String> {
    let names = ["b", "a", ".hidden", "c"];
    for name in names {
        nothing(tree, vec![put(&at(top, name)?, name.as_bytes())])?;
    }
    nothing(tree, vec![folder(&at(top, "d")?), link(&at(top, "e")?, "a")])?;
    let wanted = vec![
        (".hidden".to_owned(), file(7, 0o600)),
        ("a".to_owned(), file(1, 0o600)),
        ("b".to_owned(), file(1, 0o600)),
        ("c".to_owned(), file(1, 0o600)),
        ("d".to_owned(), Kind::Folder),
        ("e".to_owned(), Kind::Link),
    ];
    want("names", &tree(vec![Op::List { at: top.clone(), most: 6 }]), &Ok(Done::Names(wanted)))?;
    fails(tree, Op::List { at: top.clone(), most: 5 }, FaultKind::TooLarge)?;
    fails(tree, Op::List { at: at(top, "none")?, most: 5 }, FaultKind::NotFound)?;
    refused(tree, Op::List { at: at(top, "a")?, most: 5 })
}

fn read_is_bounded(tree: Run<'_>, top: &Place) -> Result<(), String> {
    let a = at(top, "a")?;
    nothing(tree, vec![put(&a, b"abcdef")])?;
    want("bytes", &tree(vec![Op::Read { at: a.clone(), most: 6 }]), &Ok(Done::Bytes(b"abcdef".to_vec())))?;
    fails(tree, Op::Read { at: a.clone(), most: 5 }, FaultKind::TooLarge)?;
    fails(tree, Op::Read { at: a, most: 0 }, FaultKind::TooLarge)?;
    let empty = at(top, "empty")?;
    nothing(tree, vec![put(&empty, b"")])?;
    want("bytes", &tree(vec![Op::Read { at: empty, most: 0 }]), &Ok(Done::Bytes(Vec::new())))
}

fn hash_of_bytes(tree: Run<'_>, top: &Place) -> Result<(), String> {
    for (n, len) in [0_usize, 1, 1024, 3 << 20].into_iter().enumerate() {
        let bytes = vec![7; len];
        let a = at(top, &n.to_string())?;
        nothing(tree, vec![put(&a, &bytes)])?;
        want("hash", &tree(vec![Op::Hash(a)]), &Ok(hash_is(&bytes)))?;
    }
    Ok(())
}

fn creation_is_exclusive(tree: Run<'_>, top: &Place) -> Result<(), String> {
    let (a, b) = (at(top, "a")?, at(top, "b")?);
    nothing(tree, vec![put(&a, b"one"), put(&b, b"two")])?;
    nothing(tree, vec![folder(&at(top, "folder")?), link(&at(top, "link")?, "nowhere")])?;
    for taken in ["b", "folder", "link"] {
        let taken = at(top, taken)?;
        refused(tree, put(&taken, b"x"))?;
        refused(tree, Op::Copy { from: a.clone(), to: taken.clone(), mode: Mode::PRIVATE })?;
        refused(tree, link(&taken, "a"))?;
    }
    holds(tree, &b, b"two")?;
    is(tree, &at(top, "nowhere")?, Kind::Nothing)
}

fn modes_are_as_given(tree: Run<'_>, top: &Place) -> Result<(), String> {
    for bits in [0o600, 0o755, 0o777, 0o400, 0o000] {
        let mode = Mode::new(bits).ok_or("a mode")?;
        let (a, b, c) = (at(top, &format!("a{bits}"))?, at(top, &format!("b{bits}"))?, at(top, &format!("c{bits}"))?);
        nothing(tree, vec![put(&a, b"x")])?;
        nothing(tree, vec![Op::Put { at: b.clone(), bytes: b"abc".to_vec(), mode }])?;
        want("copied", &tree(vec![Op::Copy { from: a, to: c.clone(), mode }]), &Ok(hash_is(b"x")))?;
        is(tree, &b, file(3, bits))?;
        is(tree, &c, file(1, bits))?;
        // What was made in this life is synced whatever its mode.
        nothing(tree, vec![Op::Sync(b), Op::Sync(c)])?;
    }
    Ok(())
}

fn copy_tells_what_it_wrote(tree: Run<'_>, top: &Place) -> Result<(), String> {
    for (n, len) in [0_usize, 5, (1 << 20) - 1, 1 << 20, (2 << 20) + 1].into_iter().enumerate() {
        let bytes: Vec<u8> = (0..=250).cycle().take(len).collect();
        let (from, to) = (at(top, &format!("from{n}"))?, at(top, &format!("to{n}"))?);
        nothing(tree, vec![put(&from, &bytes)])?;
        let copy = Op::Copy { from: from.clone(), to: to.clone(), mode: Mode::PRIVATE };
        want("copied", &tree(vec![copy]), &Ok(hash_is(&bytes)))?;
        want("the copy", &tree(vec![Op::Hash(to)]), &Ok(hash_is(&bytes)))?;
        want("the original", &tree(vec![Op::Hash(from)]), &Ok(hash_is(&bytes)))?;
    }
    Ok(())
}

fn folders_get_their_mode(tree: Run<'_>, top: &Place) -> Result<(), String> {
    let made = at(top, "made")?;
    for bits in [0o700, 0o755, 0o700] {
        let mode = Mode::new(bits).ok_or("a mode")?;
        nothing(tree, vec![Op::MakeFolder { at: made.clone(), mode }, Op::SyncFolder(made.clone())])?;
        is(tree, &made, Kind::Folder)?;
    }
    let inner = at(top, "made/inner")?;
    nothing(tree, vec![put(&inner, b"kept"), folder(&made)])?;
    holds(tree, &inner, b"kept")?;
    nothing(tree, vec![link(&at(top, "link")?, "made")])?;
    refused(tree, folder(&inner))?;
    refused(tree, folder(&at(top, "link")?))?;
    fails(tree, folder(&at(top, "none/made")?), FaultKind::NotFound)
}

fn replace_replaces(tree: Run<'_>, top: &Place) -> Result<(), String> {
    let a = at(top, "a")?;
    for bytes in [&b"a longer text"[..], b"short", b""] {
        nothing(tree, tree::replace(&a, bytes.to_vec(), Mode::PRIVATE))?;
        holds(tree, &a, bytes)?;
        is(tree, &a.temp(), Kind::Nothing)?;
    }
    // What a crash left under the temporary name is no obstacle, whatever link it is.
    nothing(tree, vec![link(&a.temp(), "a")])?;
    nothing(tree, tree::replace(&a, b"new".to_vec(), Mode::PRIVATE))?;
    is(tree, &a, file(3, 0o600))
}

fn f11_nothing_is_renamed_over_a_folder(tree: Run<'_>, top: &Place) -> Result<(), String> {
    let (a, empty, other) = (at(top, "a")?, at(top, "empty")?, at(top, "other")?);
    nothing(tree, vec![put(&a, b"one"), folder(&empty), folder(&other)])?;
    refused(tree, Op::Rename { from: a.clone(), to: empty.clone() })?;
    refused(tree, Op::Rename { from: other.clone(), to: empty.clone() })?;
    holds(tree, &a, b"one")?;
    is(tree, &empty, Kind::Folder)?;
    is(tree, &other, Kind::Folder)
}

fn folders_are_renamed(tree: Run<'_>, top: &Place) -> Result<(), String> {
    let (one, two) = (at(top, "one")?, at(top, "two")?);
    nothing(tree, vec![folder(&one), put(&at(top, "one/file")?, b"inside")])?;
    nothing(tree, vec![Op::Rename { from: one.clone(), to: two }])?;
    is(tree, &one, Kind::Nothing)?;
    holds(tree, &at(top, "two/file")?, b"inside")
}

fn exchange_exchanges(tree: Run<'_>, top: &Place) -> Result<(), String> {
    let (a, b) = (at(top, "a")?, at(top, "b")?);
    nothing(tree, vec![folder(&a), folder(&b), put(&at(top, "a/x")?, b"of a"), put(&at(top, "b/x")?, b"of b")])?;
    nothing(tree, vec![Op::Exchange { a: a.clone(), b }, Op::SyncFolder(top.clone())])?;
    holds(tree, &at(top, "a/x")?, b"of b")?;
    holds(tree, &at(top, "b/x")?, b"of a")?;
    fails(tree, Op::Exchange { a: a.clone(), b: at(top, "none")? }, FaultKind::NotFound)?;
    fails(tree, Op::Exchange { a: at(top, "none")?, b: a }, FaultKind::NotFound)?;
    holds(tree, &at(top, "a/x")?, b"of b")
}

fn remove_is_lenient(tree: Run<'_>, top: &Place) -> Result<(), String> {
    let (a, b, c) = (at(top, "a")?, at(top, "b")?, at(top, "c")?);
    nothing(tree, vec![put(&a, b"x"), folder(&b), put(&at(top, "b/x")?, b"x"), link(&c, "a")])?;
    refused(tree, Op::Remove(b.clone()))?;
    refused(tree, Op::RemoveFolder(a.clone()))?;
    refused(tree, Op::RemoveFolder(c.clone()))?;
    match tree(vec![Op::RemoveFolder(b.clone())]) {
        Err(Fault { step: 0, .. }) => {}
        other => return Err(format!("a folder that is not empty was removed: {other:?}")),
    }
    holds(tree, &at(top, "b/x")?, b"x")?;
    nothing(
        tree,
        vec![Op::Remove(c), Op::Remove(a.clone()), Op::Remove(at(top, "b/x")?), Op::RemoveFolder(b.clone())],
    )?;
    nothing(tree, vec![Op::Remove(a), Op::RemoveFolder(b), Op::Remove(at(top, "none/at/all")?)])?;
    want("names", &tree(vec![Op::List { at: top.clone(), most: 0 }]), &Ok(Done::Names(Vec::new())))
}

fn missing_is_not_found(tree: Run<'_>, top: &Place) -> Result<(), String> {
    let (a, none, below) = (at(top, "a")?, at(top, "none")?, at(top, "none/below")?);
    nothing(tree, vec![put(&a, b"x")])?;
    for gone in [&none, &below] {
        for op in [
            Op::Read { at: gone.clone(), most: 9 },
            Op::Hash(gone.clone()),
            Op::Copy { from: gone.clone(), to: at(top, "copy")?, mode: Mode::PRIVATE },
            Op::Sync(gone.clone()),
            Op::SyncFolder(gone.clone()),
            Op::Rename { from: gone.clone(), to: at(top, "b")? },
        ] {
            fails(tree, op, FaultKind::NotFound)?;
        }
    }
    for op in [
        put(&below, b"x"),
        link(&below, "a"),
        Op::Copy { from: a.clone(), to: below.clone(), mode: Mode::PRIVATE },
        Op::Rename { from: a.clone(), to: below },
    ] {
        fails(tree, op, FaultKind::NotFound)?;
    }
    is(tree, &at(top, "copy")?, Kind::Nothing)?;
    holds(tree, &a, b"x")
}

fn links_are_not_followed(tree: Run<'_>, top: &Place) -> Result<(), String> {
    let (real, a) = (at(top, "real")?, at(top, "real/a")?);
    nothing(tree, vec![folder(&real), put(&a, b"one")])?;
    nothing(tree, vec![link(&at(top, "to-file")?, "real/a"), link(&at(top, "to-folder")?, "real")])?;
    nothing(tree, vec![link(&at(top, "to-above")?, ".."), link(&at(top, "real/loop")?, "loop")])?;
    let mine = at(top, "mine")?;
    nothing(tree, vec![put(&mine, b"mine")])?;
    for path in ["to-folder/a", "to-above/x", "real/loop/x", "to-folder/loop/x"] {
        let through = at(top, path)?;
        for op in [
            Op::Look(through.clone()),
            Op::Read { at: through.clone(), most: 9 },
            Op::Hash(through.clone()),
            put(&through, b"x"),
            Op::Copy { from: through.clone(), to: at(top, "copy")?, mode: Mode::PRIVATE },
            Op::Copy { from: mine.clone(), to: through.clone(), mode: Mode::PRIVATE },
            folder(&through),
            link(&through, "x"),
            Op::Sync(through.clone()),
            Op::SyncFolder(through.clone()),
            Op::Rename { from: mine.clone(), to: through.clone() },
            Op::Rename { from: through.clone(), to: mine.clone() },
            Op::Exchange { a: mine.clone(), b: through.clone() },
            Op::Remove(through.clone()),
            Op::RemoveFolder(through.clone()),
        ] {
            refused(tree, op)?;
        }
    }
    for path in ["to-file", "to-folder", "to-above", "real/loop"] {
        let link = at(top, path)?;
        for op in [
            Op::Read { at: link.clone(), most: 9 },
            Op::Hash(link.clone()),
            Op::Copy { from: link.clone(), to: at(top, "copy")?, mode: Mode::PRIVATE },
            Op::Sync(link.clone()),
            Op::SyncFolder(link.clone()),
            Op::List { at: link.clone(), most: 9 },
            folder(&link),
        ] {
            refused(tree, op)?;
        }
        is(tree, &link, Kind::Link)?;
    }
    // A link itself is renamed, replaced and removed; what it points at stays.
    nothing(tree, vec![Op::Rename { from: mine, to: at(top, "to-file")? }, Op::Remove(at(top, "to-folder")?)])?;
    holds(tree, &at(top, "to-file")?, b"mine")?;
    holds(tree, &a, b"one")
}

fn only_regular_files(tree: Run<'_>, top: &Place) -> Result<(), String> {
    let (a, inner) = (at(top, "folder")?, at(top, "file/inner")?);
    nothing(tree, vec![folder(&a), put(&at(top, "file")?, b"x")])?;
    for op in [
        Op::Read { at: a.clone(), most: 9 },
        Op::Hash(a.clone()),
        Op::Copy { from: a.clone(), to: at(top, "copy")?, mode: Mode::PRIVATE },
        Op::Sync(a),
        Op::SyncFolder(at(top, "file")?),
        Op::Read { at: inner.clone(), most: 9 },
        put(&inner, b"x"),
        folder(&inner),
        Op::Remove(inner.clone()),
        Op::RemoveFolder(inner),
    ] {
        refused(tree, op)?;
    }
    is(tree, &at(top, "copy")?, Kind::Nothing)
}

fn a_root_is_no_file(tree: Run<'_>, top: &Place) -> Result<(), String> {
    let (root, a) = (Place::top(Root::State), at(top, "a")?);
    nothing(tree, vec![put(&a, b"x"), Op::SyncFolder(root.clone())])?;
    for op in [
        Op::Read { at: root.clone(), most: 9 },
        Op::Hash(root.clone()),
        put(&root, b"x"),
        link(&root, "x"),
        Op::Sync(root.clone()),
        Op::Rename { from: a.clone(), to: root.clone() },
        Op::Remove(root.clone()),
    ] {
        refused(tree, op)?;
    }
    holds(tree, &a, b"x")
}
