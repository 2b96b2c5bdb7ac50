//! In a process of its own: the umask belongs to all of its threads.

use io_edge::Tree;
use machines::tree::{Done, Kind, Mode, Op, Path, Place, Root};
use std::os::unix::fs::PermissionsExt as _;

#[test]
fn f12_modes_are_as_given_under_any_umask() {
    for umask in [0o000, 0o022, 0o027, 0o077, 0o177] {
        let folder = tempfile::tempdir().unwrap();
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
        let mut tree = Tree::new(folder.path(), Vec::new());
        let at = |path: &str| Place::state(Path::parse(path).unwrap());
        let mut want = Vec::new();
        let mut chain = vec![Op::Open(Root::State)];
        for bits in [0o600, 0o644, 0o755, 0o777] {
            let (put, copy, made) = (format!("put{bits}"), format!("copy{bits}"), format!("made{bits}"));
            let mode = Mode::new(bits).unwrap();
            chain.push(Op::Put { at: at(&put), bytes: b"x".to_vec(), mode });
            chain.push(Op::Copy { from: at(&put), to: at(&copy), mode });
            chain.push(Op::MakeFolder { at: at(&made), mode });
            want.extend([(put.clone(), bits), (copy, bits), (made, bits)]);
        }
        chain.push(Op::Look(at("put511")));
        assert_eq!(tree.run(chain), Ok(Done::Is(Kind::File { len: 1, mode: 0o777 })), "{umask:o}");
        for (name, bits) in want {
            let mode = std::fs::metadata(folder.path().join(&name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, u32::from(bits), "{name} under {umask:o}");
        }
    }
}
