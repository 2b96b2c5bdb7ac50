//! `precheck --rotate-certs`: a certificate that was issued elsewhere and laid in `identity/next/` is put in force (FAULTS T17).
//!
//! The whole next identity is put together beside the one in force, with everything that stays as it is; the pair is
//! checked there, on the very files that come in force; then the two folders change names in one step. At every instant
//! the node has one whole identity, and the one before stays in `identity.previous/`.

use alloc::collections::VecDeque;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use super::certificates::{Certificates, Pair};
use super::files::Name;
use super::host::Ask;
use super::refusal::Refusal;
use super::{Ended, Phase, Precheck};
use crate::machine::{Level, Note, Outbox};
use crate::tree::{self, Done, Kind, Mode, Op, Place, Root};

/// Most files of an identity.
const MOST: u32 = 64;

/// How far a rotation is.
#[derive(Debug)]
pub(super) enum Rotation {
    /// Listing `identity/next/`.
    Next,
    /// Reading the pair where it lies, before what an earlier rotation kept is given up.
    Proving,
    /// Listing what stays.
    Staying,
    /// Listing what an earlier rotation left, in the folder `next` within, then in the folder itself; what stays.
    Cleaning(Vec<(String, Mode)>, Name),
    /// Removing it.
    Removing(Vec<(String, Mode)>, Name),
    /// Putting the next identity together; copies that are left, and those that were made.
    Copying(VecDeque<(Place, Place, Mode)>, Vec<Place>),
    /// Making the copies durable.
    Syncing,
    /// Reading the pair that was put together.
    Checking,
    /// Changing names.
    Exchanging,
}

impl Precheck {
    /// The names of certificate and key in `identity/`.
    fn names(&self) -> Option<(String, String)> {
        let pair = self.config.tls.as_ref()?;
        let within = |place: &Place| {
            let (folder, name) = place.path.split_last()?;
            (place.root == Root::State && folder.as_str() == Name::Identity.as_str()).then(|| String::from(name))
        };
        Some((within(&pair.cert)?, within(&pair.key)?))
    }

    pub(super) fn rotate(&mut self, out: &mut Outbox<'_, Ended>) {
        if self.names().is_none() {
            return self.refuse(Refusal::rotation("tls.cert and tls.key have to lie in identity/ for that"), out);
        }
        self.list(Rotation::Next, Name::Next, out);
    }

    fn list(&mut self, rotation: Rotation, folder: Name, out: &mut Outbox<'_, Ended>) {
        let ops = alloc::vec![Op::List { at: folder.place(), most: MOST }];
        self.chain_of(Phase::Rotating(rotation), ops, out);
    }

    pub(super) fn rotated(&mut self, rotation: Rotation, got: tree::Completion, out: &mut Outbox<'_, Ended>) {
        let done = match (got, &rotation) {
            (Ok(done), _) => done,
            (Err(fault), Rotation::Cleaning(..)) if fault.kind == crate::disk::FaultKind::NotFound => {
                Done::Names(Vec::new())
            }
            (Err(fault), Rotation::Next) if fault.kind == crate::disk::FaultKind::NotFound => {
                return self.refuse(Refusal::rotation("there is no identity/next/"), out);
            }
            (Err(fault), _) => return self.refuse(Refusal::rotation(fault.kind.to_string()), out),
        };
        match (rotation, done) {
            (Rotation::Next, Done::Names(names)) => {
                let Some((cert, key)) = self.names() else { return };
                let holds = |name: &str| names.iter().any(|(n, kind)| n == name && matches!(kind, Kind::File { .. }));
                if holds(&cert) && holds(&key) {
                    return match self.pair_in(Name::Next) {
                        Ok(pair) => self.work_of(Phase::Rotating(Rotation::Proving), Ask::Certificates(pair), out),
                        Err(cause) => self.refuse(Refusal::rotation(cause.to_string()), out),
                    };
                }
                self.refuse(Refusal::rotation(alloc::format!("identity/next/ has to hold {cert} and {key}")), out);
            }
            (Rotation::Staying, Done::Names(names)) => match self.staying(names) {
                Ok(staying) => self.list(Rotation::Cleaning(staying, Name::PreviousNext), Name::PreviousNext, out),
                Err(name) => {
                    let words = alloc::format!("identity/{name} is neither a file nor next/");
                    self.refuse(Refusal::rotation(words), out);
                }
            },
            (Rotation::Cleaning(staying, folder), Done::Names(names)) => self.clean(staying, folder, &names, out),
            (Rotation::Removing(staying, Name::PreviousNext), _) => {
                self.list(Rotation::Cleaning(staying, Name::IdentityPrevious), Name::IdentityPrevious, out);
            }
            (Rotation::Removing(staying, _), _) => self.stage(&staying, out),
            (Rotation::Copying(left, made), _) => self.copy(left, made, out),
            (Rotation::Syncing, _) => match self.pair_in(Name::IdentityPrevious) {
                Ok(pair) => self.work_of(Phase::Rotating(Rotation::Checking), Ask::Certificates(pair), out),
                Err(cause) => self.refuse(Refusal::rotation(cause.to_string()), out),
            },
            (Rotation::Exchanging, _) => {
                out.note(Note::new(Level::Info, "edge.certificates.rotated"));
                match self.config.tls.clone() {
                    Some(pair) => self.certify(pair, out),
                    None => panic!("precheck: a rotation without a certificate"),
                }
            }
            (rotation, done) => panic!("precheck: {done:?} does not answer {rotation:?}"),
        }
    }

    /// The files that stay as they are; the name of what cannot stay.
    fn staying(&self, names: Vec<(String, Kind)>) -> Result<Vec<(String, Mode)>, String> {
        let own = self.names();
        let replaced = |name: &str| own.as_ref().is_some_and(|(cert, key)| name == cert || name == key);
        let mut staying = Vec::new();
        for (name, kind) in names {
            match kind {
                Kind::Folder if name == "next" => {}
                Kind::File { .. } if replaced(&name) => {}
                Kind::File { mode, .. } => staying.push((name, Mode::new(mode & 0o777).unwrap_or(Mode::PRIVATE))),
                Kind::Nothing => {}
                Kind::Folder | Kind::Link | Kind::Other => return Err(name),
            }
        }
        Ok(staying)
    }

    fn clean(
        &mut self,
        staying: Vec<(String, Mode)>,
        folder: Name,
        names: &[(String, Kind)],
        out: &mut Outbox<'_, Ended>,
    ) {
        let at = folder.place();
        let mut ops = Vec::new();
        for (name, kind) in names {
            match (at.join(name), kind) {
                (Ok(file), Kind::File { .. } | Kind::Link) => ops.push(Op::Remove(file)),
                (Ok(inner), Kind::Folder) if name == "next" && folder == Name::IdentityPrevious => {
                    ops.push(Op::RemoveFolder(inner));
                }
                (Ok(_) | Err(_), _) => {
                    let words = alloc::format!("{at_path}/{name:?} is in the way; remove it", at_path = at.path);
                    return self.refuse(Refusal::rotation(words), out);
                }
            }
        }
        if folder == Name::IdentityPrevious {
            ops.push(Op::MakeFolder { at: at.clone(), mode: Mode::PRIVATE_FOLDER });
        } else {
            ops.push(Op::RemoveFolder(at));
        }
        self.chain_of(Phase::Rotating(Rotation::Removing(staying, folder)), ops, out);
    }

    fn stage(&mut self, staying: &[(String, Mode)], out: &mut Outbox<'_, Ended>) {
        let Some((cert, key)) = self.names() else { return };
        let (old, next, new) = (Name::Identity.place(), Name::Next.place(), Name::IdentityPrevious.place());
        let mut copies = VecDeque::new();
        let mut add = |from: &Place, name: &str, mode: Mode| -> Result<(), tree::BadPath> {
            copies.push_back((from.join(name)?, new.join(name)?, mode));
            Ok(())
        };
        let mut all = staying.iter().map(|(name, mode)| (&old, name.as_str(), *mode)).collect::<Vec<_>>();
        all.push((&next, &cert, Mode::PRIVATE));
        all.push((&next, &key, Mode::PRIVATE));
        for (from, name, mode) in all {
            if let Err(cause) = add(from, name, mode) {
                return self.refuse(Refusal::rotation(alloc::format!("{name:?}: {cause}")), out);
            }
        }
        self.copy(copies, Vec::new(), out);
    }

    fn copy(&mut self, mut left: VecDeque<(Place, Place, Mode)>, mut made: Vec<Place>, out: &mut Outbox<'_, Ended>) {
        match left.pop_front() {
            Some((from, to, mode)) => {
                made.push(to.clone());
                let op = Op::Copy { from, to, mode };
                self.chain_of(Phase::Rotating(Rotation::Copying(left, made)), alloc::vec![op], out);
            }
            None => {
                let mut ops: Vec<Op> = made.into_iter().map(Op::Sync).collect();
                // Where the one after will be laid.
                let next = Name::PreviousNext.place();
                ops.push(Op::MakeFolder { at: next.clone(), mode: Mode::PRIVATE_FOLDER });
                ops.push(Op::SyncFolder(next));
                ops.push(Op::SyncFolder(Name::IdentityPrevious.place()));
                ops.push(Op::SyncFolder(Place::top(Root::State)));
                self.chain_of(Phase::Rotating(Rotation::Syncing), ops, out);
            }
        }
    }

    /// The next pair where it lies or was put together, with the authorities that stay.
    fn pair_in(&self, folder: Name) -> Result<Pair, tree::BadPath> {
        let (Some(pair), Some((cert, key))) = (&self.config.tls, self.names()) else {
            return Err(tree::BadPath::Empty);
        };
        let at = folder.place();
        Ok(Pair { cert: at.join(&cert)?, key: at.join(&key)?, ca: pair.ca.clone() })
    }

    pub(super) fn next_checked(
        &mut self,
        rotation: Rotation,
        found: Result<Certificates, String>,
        out: &mut Outbox<'_, Ended>,
    ) {
        let fault = match found {
            Ok(mut found) => {
                // Whatever the mode where it lies, what comes in force is a copy that nobody else reads.
                found.exposed &= matches!(rotation, Rotation::Checking);
                found.fault(self.judged_at).map(|fault| Refusal::certificate(fault, found.not_after))
            }
            Err(words) => Some(Refusal::certificate_unreadable(words)),
        };
        if let Some(refusal) = fault {
            return self.refuse(refusal.unmarked(), out);
        }
        if matches!(rotation, Rotation::Proving) {
            return self.list(Rotation::Staying, Name::Identity, out);
        }
        let Rotation::Checking = rotation else { panic!("precheck: no certificate was asked for in {rotation:?}") };
        let ops = alloc::vec![
            Op::Exchange { a: Name::Identity.place(), b: Name::IdentityPrevious.place() },
            Op::SyncFolder(Place::top(Root::State)),
        ];
        self.chain_of(Phase::Rotating(Rotation::Exchanging), ops, out);
    }
}
