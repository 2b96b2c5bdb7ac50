//! What is done to a release, and where it has to be refused.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use machines::lock::{Lock, Runtime};
use machines::oci::{Manifest, tags};
use machines::semver::Version;

use super::shelf::{Shelf, TAG, flip};
use super::{Published, SEQUENCE, Want};
use crate::release::{Draft, Keys, own, succeeded};

/// One thing that is done.
pub struct Case {
    /// What, in words: the component first.
    pub what: &'static str,
    /// Where it has to be refused.
    pub want: Want,
    /// Does it in a new folder; gives the layout and the public key that is asked by.
    pub make: fn(&Published<'_>, &Path) -> Result<(Shelf, PathBuf)>,
}

const LOCK: &str = "v1-lock";
const POLICY: &str = "v1-policy";

const fn case(what: &'static str, want: Want, make: fn(&Published<'_>, &Path) -> Result<(Shelf, PathBuf)>) -> Case {
    Case { what, want, make }
}

/// All of them.
pub const CASES: &[Case] = &[
    // the image
    case("image: a bit of its layer", Want::Step(2), |p, to| p.changed(to, |shelf| shelf.flip(&shelf.layer(TAG)?))),
    case("image: a bit of its manifest", Want::Step(1), |p, to| {
        p.changed(to, |shelf| shelf.flip(&shelf.tagged(TAG)?.digest))
    }),
    case("image: its layer removed", Want::Step(2), |p, to| {
        p.changed(to, |shelf| Ok(std::fs::remove_file(shelf.blob(&shelf.layer(TAG)?))?))
    }),
    case("image: removed", Want::Unreadable, |p, to| p.changed(to, |shelf| shelf.remove(TAG))),
    case("image: swapped with release 2.0.0's", Want::Swapped, |p, to| {
        p.changed(to, |shelf| {
            shelf.remove(TAG)?;
            shelf.take(p.other, TAG)
        })
    }),
    case("image: swapped with one that nobody signed", Want::Step(1), |p, to| {
        p.changed(to, |shelf| {
            shelf.remove(TAG)?;
            shelf.take(p.other, TAG)?;
            shelf.unsign(TAG)
        })
    }),
    case("image: resigned by another key", Want::Step(1), |p, to| {
        p.changed(to, |shelf| {
            shelf.unsign(TAG)?;
            own(p.shell, p.stranger, &shelf.image(), &["--recursive=false"])
        })
    }),
    case("image: signed six years ago", Want::Step(1), |p, to| {
        p.changed(to, |shelf| {
            shelf.unsign(TAG)?;
            own(p.shell, p.keys, &shelf.image(), &["--recursive=false", "-a", LONG_AGO])
        })
    }),
    // the lock
    case("lock: a bit of it", Want::Step(1), |p, to| p.changed(to, |shelf| shelf.flip(&shelf.layer(LOCK)?))),
    case("lock: its file removed", Want::Step(1), |p, to| {
        p.changed(to, |shelf| Ok(std::fs::remove_file(shelf.blob(&shelf.layer(LOCK)?))?))
    }),
    case("lock: removed", Want::Step(1), |p, to| p.changed(to, |shelf| shelf.remove(LOCK))),
    case("lock: rewritten, and signed by nobody", Want::Step(1), |p, to| {
        p.changed(to, |shelf| p.relock(shelf, |lock| lock.sequence += 1))
    }),
    case("lock: rewritten, signed, but of the old fingerprint", Want::Step(3), |p, to| {
        p.changed(to, |shelf| {
            p.relock_as_it_is(shelf, |lock| lock.sequence += 1)?;
            p.sign(shelf, LOCK, p.keys, &[])
        })
    }),
    case("lock: swapped with release 2.0.0's", Want::Swapped, |p, to| {
        p.changed(to, |shelf| {
            shelf.remove(LOCK)?;
            shelf.take(p.other, LOCK)
        })
    }),
    case("lock: resigned by another key", Want::Step(1), |p, to| {
        p.changed(to, |shelf| {
            shelf.unsign(LOCK)?;
            p.sign(shelf, LOCK, p.stranger, &[])
        })
    }),
    case("lock: signed six years ago", Want::Step(1), |p, to| {
        p.changed(to, |shelf| {
            shelf.unsign(LOCK)?;
            p.sign(shelf, LOCK, p.keys, &["-a", LONG_AGO])
        })
    }),
    case("lock: for other runtimes", Want::Step(4), |p, to| {
        let other = Runtime::parse(">=99.0.0").map_err(|refusal| anyhow::anyhow!("{refusal}"))?;
        p.signed_anew(to, |lock| lock.runtime = other)
    }),
    case("lock: names another version of the policy", Want::Step(4), |p, to| {
        let other = Version::parse("1.0.1").map_err(|refusal| anyhow::anyhow!("{refusal}"))?;
        p.signed_anew(to, |lock| lock.policy_bundle.version = other)
    }),
    case("lock: an older sequence", Want::Refused("rollback"), older),
    case("lock: another name", Want::Refused("wrong_name"), |p, to| {
        p.signed_anew(to, |lock| lock.name = "otherapp".into())
    }),
    case("lock: for another channel", Want::WrongChannel, |p, to| {
        p.signed_anew(to, |lock| lock.channels = vec!["canary".into()])
    }),
    // the policy bundle
    case("policy: a bit of it", Want::Step(2), |p, to| p.changed(to, |shelf| shelf.flip(&shelf.layer(POLICY)?))),
    case("policy: its file removed", Want::Step(2), |p, to| {
        p.changed(to, |shelf| Ok(std::fs::remove_file(shelf.blob(&shelf.layer(POLICY)?))?))
    }),
    case("policy: removed", Want::Step(1), |p, to| p.changed(to, |shelf| shelf.remove(POLICY))),
    case("policy: swapped with release 2.0.0's", Want::Swapped, |p, to| {
        p.changed(to, |shelf| {
            shelf.remove(POLICY)?;
            shelf.take(p.other, POLICY)
        })
    }),
    case("policy: its bytes swapped with release 2.0.0's", Want::Step(2), |p, to| {
        p.changed(to, |shelf| {
            let bytes = std::fs::read(p.other.blob(&p.other.layer(POLICY)?))?;
            Ok(std::fs::write(shelf.blob(&shelf.layer(POLICY)?), bytes)?)
        })
    }),
    case("policy: resigned by another key", Want::Step(1), |p, to| {
        p.changed(to, |shelf| {
            shelf.unsign(POLICY)?;
            p.sign(shelf, POLICY, p.stranger, &[])
        })
    }),
    case("policy: signed six years ago", Want::Step(1), |p, to| {
        p.changed(to, |shelf| {
            shelf.unsign(POLICY)?;
            p.sign(shelf, POLICY, p.keys, &["-a", LONG_AGO])
        })
    }),
    case("policy: for other runtimes", Want::Step(4), |p, to| p.for_other_runtimes(to)),
    // the signature
    case("signature: a bit of each", Want::Step(1), |p, to| {
        p.changed(to, |shelf| {
            for signature in shelf.signatures(TAG)? {
                let Manifest::Image(manifest) = shelf.manifest(&signature)? else { continue };
                for layer in &manifest.layers {
                    shelf.flip(&layer.digest)?;
                }
            }
            Ok(())
        })
    }),
    case("signature: of the image removed", Want::Step(1), |p, to| p.changed(to, |shelf| shelf.unsign(TAG))),
    case("signature: of the lock removed", Want::Step(1), |p, to| p.changed(to, |shelf| shelf.unsign(LOCK))),
    case("signature: of the policy removed", Want::Step(1), |p, to| p.changed(to, |shelf| shelf.unsign(POLICY))),
    case("signature: swapped with release 2.0.0's", Want::Step(1), |p, to| {
        p.changed(to, |shelf| {
            let theirs = tags::signature(&p.other.tagged(TAG)?.digest);
            shelf.unsign(TAG)?;
            shelf.take(p.other, &theirs)?;
            shelf.retag(&theirs, &tags::signature(&shelf.tagged(TAG)?.digest))
        })
    }),
    // the key
    case("key: a bit of it", Want::NoKey(1), |p, to| {
        p.with_key(to, |key| {
            std::fs::copy(&p.keys.public, key)?;
            flip(key)
        })
    }),
    case("key: removed", Want::NoKey(3), |p, to| p.with_key(to, |_| Ok(()))),
    case("key: swapped with another", Want::Step(1), |p, to| {
        p.with_key(to, |key| Ok(std::fs::copy(&p.stranger.public, key).map(|_| ())?))
    }),
];

const LONG_AGO: &str = "autonomy.signed-at=2020-11-21T00:00:00Z";

/// A release that is signed as it should be, of the sequence before the one that is in force.
pub fn older(published: &Published<'_>, to: &Path) -> Result<(Shelf, PathBuf)> {
    published.signed_anew(to, |lock| lock.sequence = SEQUENCE - 1)
}

impl Published<'_> {
    /// A copy of the signed release with something done to it.
    fn changed(&self, to: &Path, change: impl FnOnce(&Shelf) -> Result<()>) -> Result<(Shelf, PathBuf)> {
        let shelf = self.signed.copy_to(to)?;
        change(&shelf)?;
        Ok((shelf, self.keys.public.clone()))
    }

    /// The signed release as it is, asked by another key's file.
    fn with_key(&self, to: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<(Shelf, PathBuf)> {
        let key = to.with_extension("pub");
        make(&key)?;
        Ok((self.signed.copy_to(to)?, key))
    }

    /// The release with another lock, whose fingerprint is right, all signed by the publisher.
    fn signed_anew(&self, to: &Path, change: impl FnOnce(&mut Lock)) -> Result<(Shelf, PathBuf)> {
        self.changed(to, |shelf| {
            self.relock(shelf, change)?;
            self.sign(shelf, LOCK, self.keys, &[])
        })
    }

    /// Signs what stands under a tag.
    fn sign(&self, shelf: &Shelf, tag: &str, keys: &Keys, more: &[&str]) -> Result<()> {
        let subject = shelf.at(&shelf.tagged(tag)?.digest);
        own(self.shell, keys, &subject, &[&["--recursive=false"], more].concat())
    }

    /// Puts another lock in the place of the release's; its fingerprint is made right.
    fn relock(&self, shelf: &Shelf, change: impl FnOnce(&mut Lock)) -> Result<()> {
        self.relock_as_it_is(shelf, |lock| {
            change(lock);
            lock.fingerprint = lock.computed();
        })
    }

    fn relock_as_it_is(&self, shelf: &Shelf, change: impl FnOnce(&mut Lock)) -> Result<()> {
        let bytes = std::fs::read(shelf.blob(&shelf.layer(LOCK)?))?;
        let mut lock = Lock::read(&bytes).map_err(|refusal| anyhow::anyhow!("the lock: {refusal}"))?;
        change(&mut lock);
        let file = shelf.folder.with_extension("lock.json");
        std::fs::write(&file, lock.to_bytes()).with_context(|| format!("cannot write {}", file.display()))?;
        shelf.remove(LOCK)?;
        let (image, file) = (shelf.image(), file.display().to_string());
        succeeded(&self.shell.quietly(&["oci", "attach-lock", "--image", &image, "--lock", &file])?)
    }

    /// A release whose bundle says by itself that it is for other runtimes.
    fn for_other_runtimes(&self, to: &Path) -> Result<(Shelf, PathBuf)> {
        let shelf = Shelf { folder: to.to_path_buf() };
        let (bundle, lock) = (to.with_extension("tar.gz"), to.with_extension("lock.json"));
        let (policies, out) = (self.policies.display().to_string(), bundle.display().to_string());
        let build = ["policy", "build", "--in", &policies, "--out", &out, "--version", "1.0.0"];
        succeeded(&self.shell.quietly(&[&build[..], &["--runtime-version", ">=99.0.0"]].concat())?)?;
        let image = shelf.image();
        let release = Draft { image: &image, bundle: &bundle, lock: &lock, ..self.draft };
        release.publish(self.shell)?;
        own(self.shell, self.keys, &image, &[])?;
        Ok((shelf, self.keys.public.clone()))
    }
}
