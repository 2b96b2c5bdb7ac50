//! One precheck from its start to its end.

use std::path::PathBuf;

use io_drive::once::{OnceError, Outside, run_with};
use machines::machine::Note;
use machines::precheck::host::{Answer, Ask};
use machines::precheck::{Config, Ended, Precheck};
use machines::{tree, work};

use crate::host::Sources;
use crate::{Tree, certificates, keys};

/// What a precheck reads besides the files beneath its roots.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// Where the host says what it is.
    pub host: Sources,
    /// `trust.manifest_key`, where that names a file outside the state root.
    pub pinned_key: Option<PathBuf>,
}

/// Runs a precheck (SPEC 10). The lock that it took stays with `tree` until that is dropped.
///
/// # Errors
/// When the kernel gives no entropy. A refusal is no error: it is in [`Ended`], and its words in a note.
pub fn precheck(config: Config, tree: &mut Tree, given: &Given, note: impl FnMut(Note)) -> Result<Ended, OnceError> {
    run_with(Precheck::new(config), &mut Node { tree, given, note })
}

/// The outside of a precheck.
struct Node<'a, N> {
    tree: &'a mut Tree,
    given: &'a Given,
    note: N,
}

impl<N: FnMut(Note)> Outside for Node<'_, N> {
    fn tree(&mut self, chain: Vec<tree::Op>) -> tree::Completion {
        self.tree.run(chain)
    }

    fn work(&mut self, op: work::Op) -> Option<work::Got> {
        let work::Op::Host(ask) = op else { panic!("a precheck does no such work: {op:?}") };
        Some(work::Got::Host(match ask {
            Ask::Components => Answer::Components(self.given.host.components()),
            Ask::Certificates(pair) => Answer::Certificates(certificates::read(self.tree, &pair)),
            Ask::PinnedKey => Answer::Key(match &self.given.pinned_key {
                Some(path) => keys::pinned(path),
                None => Err("trust.manifest_key names no file".into()),
            }),
            Ask::Ed25519 { key, message, signature } => Answer::Signed(keys::signed(&key, &message, &signature)),
        }))
    }

    fn note(&mut self, line: Note) {
        (self.note)(line);
    }
}
