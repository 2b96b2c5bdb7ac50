//! The source of a release as an adversary: it answers from the registry, and lies as the plan says.

use machines::oci::{Descriptor, Digest, Target, media};
use machines::verify::{Answer, Ask, SourceFault};

use crate::registry::Stored;
use crate::releases::{self, ALL, GOOD, Release};
use crate::rng::{Stream, draw};
use crate::supply::{LIES, Lies, OF_ANSWERS, Order, Part};

/// In one of so many answers a lie about any part is told.
const NOW_AND_THEN: u64 = 8;

/// A source, as one verification sees it.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    release: &'static Release,
    lies: Lies,
    on: Part,
    key: u64,
    asks: u64,
    /// An answer was not the truth.
    pub lied: bool,
    /// It said that it cannot be reached or read, or that the image is not there.
    pub out_of_reach: bool,
    /// What went through with every byte as it was pushed.
    pub honest: Vec<Digest>,
}

impl Source {
    /// The source of this order; `key` is the key of its noise.
    pub(crate) fn new(order: &Order, key: u64) -> Option<Self> {
        let (release, lies, on) = (releases::release(order.release)?, order.lies, order.on);
        Some(Self { release, lies, on, key, asks: 0, lied: false, out_of_reach: false, honest: Vec::new() })
    }

    /// Whether the source as a whole leads somewhere else than to what was pushed.
    pub(crate) const fn misleads(&self) -> bool {
        self.lies.0 >> OF_ANSWERS != 0
    }

    /// Whether this lie is among its lies.
    pub(crate) fn tells(&self, lie: &str) -> bool {
        self.lies.has(lie)
    }

    /// A release to be confused with: another good one, or an older one.
    fn other(&self, n: u64) -> &'static Release {
        let of = u64::from(if n == 0 { self.release.number.clamp(1, GOOD) } else { GOOD });
        let pick = draw(self.key, Stream::Net, 1 << 40, n) % of;
        let pick = if pick == u64::from(self.release.number) { (pick + 1) % of } else { pick };
        releases::release(u8::try_from(pick).unwrap_or(0)).unwrap_or(self.release)
    }

    /// Answers. The truth is told of what is not lied about.
    pub(crate) fn answer(&mut self, ask: &Ask) -> Result<Answer, SourceFault> {
        self.asks += 1;
        let part = part_of(ask);
        let noise = draw(self.key, Stream::Net, self.asks, 2);
        let chosen = if self.on == Part::Any { noise.is_multiple_of(NOW_AND_THEN) } else { self.on == part };
        let truth = self.answered(ask);
        let told: Vec<u32> = (0..OF_ANSWERS).filter(|bit| self.lies.0 >> bit & 1 == 1).collect();
        let lie = told.get(usize::try_from(noise / NOW_AND_THEN).unwrap_or(0) % told.len().max(1));
        let (answer, honest) = match lie.filter(|_| chosen) {
            None => (truth, true),
            Some(lie) => {
                let told = tell(LIES.get(*lie as usize).copied().unwrap_or(""), ask, truth.clone(), noise);
                let honest = told == truth;
                (told, honest)
            }
        };
        self.lied |= !honest;
        match (&answer, ask) {
            (Err(SourceFault::Unreachable(_) | SourceFault::Denied(_)), _) => self.out_of_reach = true,
            (Err(SourceFault::NotFound), Ask::Manifest { .. }) if self.asks == 1 => self.out_of_reach = true,
            (Ok(Answer::Hashed { .. }), Ask::Stream(descriptor)) if honest => {
                self.honest.push(descriptor.digest);
            }
            _ => {}
        }
        answer
    }

    /// Where a tag leads, which may be to another release than was meant.
    fn tag(&self, tag: &str) -> Option<Digest> {
        let tags = &ALL.registry.tags;
        let own = format!("r{}", self.release.number);
        let kind = tag.strip_prefix(own.as_str());
        let of = |release: &Release, kind: &str| tags.get(&format!("r{}{kind}", release.number)).copied();
        match kind {
            // Digests beside the tag are named by digest, and nobody can move those.
            Some("") if self.lies.has("stale") => of(self.other(0), ""),
            Some("-lock") if self.lies.has("swapped") => of(self.release, "-policy"),
            Some("-policy") if self.lies.has("swapped") => of(self.release, "-lock"),
            Some(kind @ ("-lock" | "-policy")) if self.lies.has("moved") => of(self.other(3), kind),
            Some("-lock") if self.lies.has("mixed") => of(self.other(1), "-lock"),
            Some("-policy") if self.lies.has("mixed") => of(self.other(2), "-policy"),
            _ => tags.get(tag).copied(),
        }
    }

    fn listing(&self, subject: &Digest) -> Vec<Descriptor> {
        let mut list = ALL.registry.referrers.get(subject).cloned().unwrap_or_default();
        if *subject != self.release.image.digest {
            return list;
        }
        let is = |found: &Descriptor, kind| found.artifact_type.as_deref() == Some(kind);
        if self.lies.has("mixed") {
            let [lock, policy] = [(1, 0), (2, 1)].map(|(n, at)| self.other(n).attached.get(at).cloned().flatten());
            for found in &mut list {
                let with = if is(found, media::LOCK) { &lock } else { &policy };
                if let Some(with) = with.as_ref().filter(|_| is(found, media::LOCK) || is(found, media::POLICY_BUNDLE))
                {
                    found.clone_from(with);
                }
            }
        }
        if self.lies.has("swapped") {
            for found in &mut list {
                if is(found, media::LOCK) {
                    found.artifact_type = Some(media::POLICY_BUNDLE.to_owned());
                } else if is(found, media::POLICY_BUNDLE) {
                    found.artifact_type = Some(media::LOCK.to_owned());
                }
            }
        }
        if self.lies.has("listing") {
            let twice = list.clone();
            list.extend(twice);
            let kinds = [media::LOCK, media::POLICY_BUNDLE, media::SIGSTORE_BUNDLE];
            let kind = kinds.get(usize::try_from(self.key % 3).unwrap_or(0)).copied().unwrap_or(media::LOCK);
            let absent = Descriptor::new(media::IMAGE_MANIFEST, Digest::of(b"not there"), 400);
            list.push(Descriptor { artifact_type: Some(kind.to_owned()), ..absent });
            let other = self.other(4).attached.iter().flatten().cloned();
            list.extend(other.filter(|_| self.key & 8 == 0));
        }
        list
    }

    /// What the registry holds, by the names that this source gives to it.
    fn answered(&self, ask: &Ask) -> Result<Answer, SourceFault> {
        let registry = &ALL.registry;
        match ask {
            Ask::Manifest { at, max } => {
                let digest = match at {
                    Target::Digest(digest) => Some(*digest),
                    Target::Tag(tag) => self.tag(tag),
                    Target::Only => None,
                };
                let digest = digest.ok_or(SourceFault::NotFound)?;
                let stored = registry.manifests.get(&digest).ok_or(SourceFault::NotFound)?;
                if stored.bytes.len() > *max as usize {
                    return Err(SourceFault::TooLong { max: u64::from(*max) });
                }
                let (media_type, bytes) = (Some(stored.media_type.clone()), stored.bytes.clone());
                Ok(Answer::Manifest { media_type, digest: Some(digest), bytes })
            }
            Ask::Referrers { subject, max } => {
                let list = self.listing(subject);
                if list.len() > *max as usize {
                    return Err(SourceFault::TooLong { max: u64::from(*max) });
                }
                Ok(Answer::Referrers(list))
            }
            Ask::Bytes(descriptor) => {
                let stored = registry.blobs.get(&descriptor.digest).ok_or(SourceFault::NotFound)?;
                if stored.bytes.len() as u64 > descriptor.size {
                    return Err(SourceFault::TooLong { max: descriptor.size });
                }
                Ok(Answer::Bytes(stored.bytes.clone()))
            }
            Ask::Stream(descriptor) => {
                let stored = registry.blobs.get(&descriptor.digest).ok_or(SourceFault::NotFound)?;
                let size = stored.bytes.len() as u64;
                if size > descriptor.size {
                    return Ok(Answer::Hashed { digest: Digest::of(b"cut"), size: descriptor.size + 1 });
                }
                Ok(Answer::Hashed { digest: descriptor.digest, size })
            }
        }
    }
}

/// What an ask is about.
fn part_of(ask: &Ask) -> Part {
    let of = |stored: Option<&Stored>| stored.map_or(Part::Any, |stored| stored.part);
    match ask {
        Ask::Manifest { at: Target::Tag(tag), .. } => match tag {
            tag if tag.ends_with(".sig") => Part::Signature,
            tag if tag.ends_with("-lock") => Part::Lock,
            tag if tag.ends_with("-policy") => Part::Policy,
            _ => Part::Image,
        },
        Ask::Manifest { at: Target::Digest(digest), .. } => of(ALL.registry.manifests.get(digest)),
        Ask::Manifest { at: Target::Only, .. } => Part::Image,
        Ask::Referrers { .. } => Part::Listing,
        Ask::Bytes(descriptor) | Ask::Stream(descriptor) => of(ALL.registry.blobs.get(&descriptor.digest)),
    }
}

fn bent(mut bytes: Vec<u8>, noise: u64) -> Vec<u8> {
    let at = usize::try_from(noise >> 16).unwrap_or(0) % bytes.len().max(1);
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << (noise % 7);
    }
    bytes
}

fn cut(mut bytes: Vec<u8>, noise: u64) -> Vec<u8> {
    bytes.truncate(usize::try_from(noise >> 16).unwrap_or(0) % bytes.len().max(1));
    bytes
}

/// The answer as this lie makes it.
fn tell(lie: &str, ask: &Ask, truth: Result<Answer, SourceFault>, noise: u64) -> Result<Answer, SourceFault> {
    let other = Digest::of(b"other bytes");
    match (lie, truth) {
        ("missing", _) => Err(SourceFault::NotFound),
        ("unreachable", _) => Err(SourceFault::Unreachable("simulated: connection refused".to_owned())),
        ("denied", _) => Err(SourceFault::Denied("simulated: credentials are wanted".to_owned())),
        ("endless", Ok(Answer::Hashed { size, .. })) => Ok(Answer::Hashed { digest: other, size: size + 1 }),
        ("endless", Ok(_)) => Err(SourceFault::TooLong {
            max: match ask {
                Ask::Manifest { max, .. } | Ask::Referrers { max, .. } => u64::from(*max),
                Ask::Bytes(descriptor) | Ask::Stream(descriptor) => descriptor.size,
            },
        }),
        ("bytes", Ok(Answer::Manifest { media_type, digest, bytes })) => {
            Ok(Answer::Manifest { media_type, digest, bytes: bent(bytes, noise) })
        }
        ("bytes", Ok(Answer::Bytes(bytes))) => Ok(Answer::Bytes(bent(bytes, noise))),
        ("bytes", Ok(Answer::Hashed { size, .. })) => Ok(Answer::Hashed { digest: other, size }),
        ("bytes", Ok(Answer::Referrers(mut list))) => {
            for found in &mut list {
                found.digest = Digest::of(found.digest.hex().as_bytes());
            }
            Ok(Answer::Referrers(list))
        }
        ("short", Ok(Answer::Manifest { media_type, digest, bytes })) => {
            Ok(Answer::Manifest { media_type, digest, bytes: cut(bytes, noise) })
        }
        ("short", Ok(Answer::Bytes(bytes))) => Ok(Answer::Bytes(cut(bytes, noise))),
        ("short", Ok(Answer::Hashed { size, .. })) => Ok(Answer::Hashed { digest: other, size: size / 2 }),
        ("short", Ok(Answer::Referrers(mut list))) => {
            list.truncate(list.len() / 2);
            Ok(Answer::Referrers(list))
        }
        ("digest", Ok(Answer::Manifest { media_type, bytes, .. })) => {
            Ok(Answer::Manifest { media_type, digest: Some(other), bytes })
        }
        ("media", Ok(Answer::Manifest { bytes, digest, .. })) => {
            let kinds = [Some(media::IMAGE_INDEX), Some(media::DOCKER_MANIFEST), Some("text/html"), None];
            let kind = kinds.get(usize::try_from(noise >> 20 & 3).unwrap_or(0)).copied().flatten();
            Ok(Answer::Manifest { media_type: kind.map(str::to_owned), digest, bytes })
        }
        (_, truth) => truth,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supply::Goal;

    #[test]
    fn a_source_without_lies_tells_the_truth_and_one_that_lies_is_found_out() {
        let order = |lies, on| Order { release: 1, lies, on, goal: Goal::Import };
        let release = releases::release(1).unwrap();
        let ask = Ask::Manifest { at: Target::Tag("r1".to_owned()), max: 1 << 20 };
        let mut honest = Source::new(&order(Lies::default(), Part::Any), 7).unwrap();
        let Ok(Answer::Manifest { digest, .. }) = honest.answer(&ask) else { panic!("no manifest") };
        assert_eq!((digest, honest.lied), (Some(release.image.digest), false));
        for lie in &LIES[..OF_ANSWERS as usize] {
            let mut liar = Source::new(&order(Lies::of(&[lie]), Part::Image), 7).unwrap();
            assert_ne!(liar.answer(&ask), honest.answer(&ask), "{lie}");
            assert!(liar.lied, "{lie}");
        }
        let mut stale = Source::new(&order(Lies::of(&["stale"]), Part::Any), 7).unwrap();
        assert_ne!(stale.answer(&ask), honest.answer(&ask));
    }
}
