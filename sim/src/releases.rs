//! The releases of the simulation, good and bad, built once. What the four steps must make of each is known beforehand.

use std::sync::LazyLock;

use machines::ids::Hash32;
use machines::lock::{AgentArtifact, Draft, Inputs, Lock, PolicyBundle, Runtime};
use machines::oci::{Descriptor, Digest, Image, Index, Platform, Reference, media};
use machines::semver::Version;
use machines::signature::{SIGNED_AT, bundle, simple};
use machines::time::Wall;
use machines::verify::Step;

use crate::policies;
use crate::registry::{Layout, Registry, STRANGER, TRUSTED, day, sign};
use crate::supply::{NAMES, Part};

/// What the four steps make of a release whose source tells the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// They pass, unless it is too old.
    Pass,
    /// They pass, or the first fails: it hangs on the order of answers.
    Either,
    /// This one fails.
    Fail(Step),
}

/// What is wrong with a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    Undated,
    BadDate,
    Stranger,
    Unsigned,
    LockUnsigned,
    LockOld,
    PolicyStranger,
    OtherImage,
    OtherBundle,
    Fingerprint,
    LockVersion,
    LockRuntime,
    NoLock,
    NoPolicy,
    OtherDigest,
    Copied,
    Unparsable,
    ManyLayers,
    ManyBundles,
    NoPlatform,
    OldBesideStranger,
    OldBesideNew,
    OlderLock,
    Doubled,
}

#[derive(Clone, Copy, Debug)]
struct Recipe {
    name: u8,
    sequence: u64,
    variant: u8,
    channels: &'static [&'static str],
    day: i64,
    layout: Layout,
    key: u8,
    index: bool,
    flaw: Flaw,
    expect: Expect,
}

impl Recipe {
    /// The policy that the lock binds.
    fn bound(&self) -> u8 {
        if self.flaw == Flaw::OtherBundle { 0 } else { self.variant }
    }
}

const PLAIN: Recipe = Recipe {
    name: 0,
    sequence: 9,
    variant: 2,
    channels: &[],
    day: 15,
    layout: Layout::Simple,
    key: TRUSTED[0],
    index: false,
    flaw: Flaw::None,
    expect: Expect::Pass,
};

const fn flawed(flaw: Flaw, expect: Expect) -> Recipe {
    Recipe { flaw, expect, layout: Layout::Both, ..PLAIN }
}

const fn fails(flaw: Flaw, step: Step) -> Recipe {
    flawed(flaw, Expect::Fail(step))
}

const fn unusable(variant: u8) -> Recipe {
    Recipe { variant, expect: Expect::Fail(Step::Compatibility), ..PLAIN }
}

/// Releases that go up in sequence, the first of them for the policies 0 to 4.
pub const GOOD: u8 = 9;
/// The one whose date is a year ahead of all others.
pub const FUTURE: u8 = 8;

/// Flaws that a broken step would let through, one of each kind.
pub const TELLING: [u8; 4] = [STRANGERS, OTHER_IMAGE, FINGERPRINT, COPIED];
/// Signed by a key that nobody trusts.
pub const STRANGERS: u8 = 12;
/// Its lock binds another image.
pub const OTHER_IMAGE: u8 = 17;
/// Its lock says something else than its fingerprint.
pub const FINGERPRINT: u8 = 19;
/// A good signature of other words stands under the right ones.
pub const COPIED: u8 = 28;

const RECIPES: &[Recipe] = &[
    Recipe { sequence: 3, variant: 0, day: 3, ..PLAIN },
    Recipe { sequence: 4, variant: 1, day: 5, channels: &["stable"], layout: Layout::Bundle, ..PLAIN },
    Recipe { sequence: 5, variant: 2, day: 7, layout: Layout::Both, key: TRUSTED[1], ..PLAIN },
    Recipe { sequence: 6, variant: 3, day: 9, channels: &["edge", "stable"], index: true, ..PLAIN },
    Recipe { sequence: 7, variant: 4, day: 11, layout: Layout::Bundle, index: true, ..PLAIN },
    // Old content under a new sequence: the way back.
    Recipe { sequence: 8, variant: 0, day: 25, layout: Layout::Both, ..PLAIN },
    Recipe { name: 1, sequence: 2, variant: 1, day: 12, ..PLAIN },
    Recipe { sequence: 6, variant: 2, day: 13, channels: &["beta"], ..PLAIN },
    Recipe { sequence: 12, variant: 1, day: 384, layout: Layout::Both, ..PLAIN },
    // From here on something is unusual or wrong.
    Recipe { day: -800, ..PLAIN },
    fails(Flaw::Undated, Step::Signature),
    fails(Flaw::BadDate, Step::Signature),
    fails(Flaw::Stranger, Step::Signature),
    fails(Flaw::Unsigned, Step::Signature),
    fails(Flaw::LockUnsigned, Step::Signature),
    fails(Flaw::LockOld, Step::Signature),
    fails(Flaw::PolicyStranger, Step::Signature),
    fails(Flaw::OtherImage, Step::Digest),
    fails(Flaw::OtherBundle, Step::Digest),
    fails(Flaw::Fingerprint, Step::Fingerprint),
    fails(Flaw::LockVersion, Step::Compatibility),
    fails(Flaw::LockRuntime, Step::Compatibility),
    unusable(policies::INCOMPATIBLE),
    unusable(policies::BROKEN),
    unusable(policies::UNCOMPILABLE),
    fails(Flaw::NoLock, Step::Signature),
    fails(Flaw::NoPolicy, Step::Signature),
    fails(Flaw::OtherDigest, Step::Signature),
    fails(Flaw::Copied, Step::Signature),
    fails(Flaw::Unparsable, Step::Signature),
    flawed(Flaw::ManyLayers, Expect::Pass),
    flawed(Flaw::ManyBundles, Expect::Either),
    Recipe { index: true, ..fails(Flaw::NoPlatform, Step::Digest) },
    Recipe { day: -800, ..fails(Flaw::OldBesideStranger, Step::Signature) },
    Recipe { sequence: 7, ..flawed(Flaw::OldBesideNew, Expect::Pass) },
    Recipe { sequence: 10, ..flawed(Flaw::OlderLock, Expect::Pass) },
    Recipe { sequence: 11, ..flawed(Flaw::Doubled, Expect::Pass) },
];

/// A release and what is true of it.
#[derive(Debug)]
pub struct Release {
    /// Its number, and the tag `r<number>`.
    pub number: u8,
    /// Where it lies.
    pub reference: Reference,
    /// The image's manifest, or its index.
    pub image: Descriptor,
    /// What of the image goes through on this node's platform.
    pub blobs: Vec<Digest>,
    /// Dates of the image's trusted signatures; without any it is not genuine.
    pub dates: Vec<Wall>,
    /// The number of the lock that was pushed with it.
    pub lock: Option<u8>,
    /// What the four steps make of it.
    pub expect: Expect,
    /// Several signatures by a key that nobody knows stand beside the good one.
    pub crowded: bool,
    /// The image is an index.
    pub index: bool,
    /// What of it is attached and listed: lock and policy bundle.
    pub attached: [Option<Descriptor>; 2],
}

/// A lock and what is true of it. Whatever image and bundle it binds belong to it, wherever they were pushed.
#[derive(Debug)]
pub struct Binding {
    /// Its number.
    pub number: u8,
    /// Which of `NAMES` it has.
    pub name: u8,
    /// Its sequence.
    pub sequence: u64,
    /// Its channels.
    pub channels: &'static [&'static str],
    /// Which policy it binds: see `policies.rs`.
    pub variant: u8,
    /// The image that it binds.
    pub image: Digest,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its fingerprint.
    pub fingerprint: Hash32,
    /// It is signed by a trusted key, says what its fingerprint says, and admits this runtime, as its bundle does.
    pub genuine: bool,
    /// What `activation.json` has to say of it, for each date of its image.
    pub slots: Vec<(Wall, String)>,
}

/// Where all of them lie.
#[derive(Debug, Default)]
pub struct Catalogue {
    /// The content.
    pub registry: Registry,
    /// The releases, by number.
    pub releases: Vec<Release>,
    /// The locks, by number.
    pub locks: Vec<Binding>,
}

/// All of them.
pub static ALL: LazyLock<Catalogue> = LazyLock::new(|| {
    let mut all = Catalogue::default();
    for (number, recipe) in (0u8..).zip(RECIPES) {
        let release = build(&mut all, number, *recipe)
            .unwrap_or_else(|| panic!("release {number} of the simulation can be built: {recipe:?}"));
        all.releases.push(release);
    }
    for lock in &mut all.locks {
        let release = all.releases.iter().find(|release| release.image.digest == lock.image);
        let dates = release.map_or(&[][..], |release| release.dates.as_slice());
        lock.slots = dates.iter().map(|at| (*at, slot(lock, *at))).collect();
    }
    all
});

/// How many there are.
pub const COUNT: u8 = {
    assert!(RECIPES.len() < 64);
    RECIPES.len().to_le_bytes()[0]
};

/// The release of this number.
#[must_use]
pub fn release(number: u8) -> Option<&'static Release> {
    ALL.releases.get(usize::from(number))
}

/// The lock of this number.
#[must_use]
pub fn lock(number: u8) -> Option<&'static Binding> {
    ALL.locks.get(usize::from(number))
}

/// The release whose image this is.
#[must_use]
pub fn by_image(digest: &Digest) -> Option<&'static Release> {
    ALL.releases.iter().find(|release| release.image.digest == *digest)
}

fn image(all: &mut Catalogue, number: u8, recipe: &Recipe) -> (Descriptor, Vec<Digest>) {
    let mut one = |platform: &str| {
        let config = format!("{{\"release\":{number},\"architecture\":\"{platform}\"}}");
        let config = all.registry.blob(Part::Layer, media::IMAGE_CONFIG, config.as_bytes());
        let layers: Vec<Descriptor> = (0..2)
            .map(|n| {
                let bytes = format!("layer {n} of release {number} for {platform}: ").repeat(4);
                all.registry.blob(Part::Layer, media::IMAGE_LAYER, bytes.as_bytes())
            })
            .collect();
        let blobs: Vec<Digest> = std::iter::once(&config).chain(&layers).map(|d| d.digest).collect();
        let image = Image { config, layers, artifact_type: None, ..Image::artifact("", Descriptor::of("", b""), None) };
        let mut descriptor = all.registry.manifest(Part::Image, media::IMAGE_MANIFEST, &image.to_bytes());
        descriptor.platform =
            Some(Platform { os: "linux".to_owned(), architecture: platform.to_owned(), variant: None });
        (descriptor, blobs)
    };
    if !recipe.index {
        let (mut descriptor, blobs) = one("amd64");
        descriptor.platform = None;
        return (descriptor, blobs);
    }
    let ours = if recipe.flaw == Flaw::NoPlatform { "riscv64" } else { "amd64" };
    let (arm, (ours, blobs)) = (one("arm64").0, one(ours));
    let index = Index::new(media::IMAGE_INDEX.to_owned(), vec![arm, ours]);
    (all.registry.manifest(Part::Image, media::IMAGE_INDEX, &index.to_bytes()), blobs)
}

/// What `activation.json` says of a lock whose image was signed at that time.
fn slot(lock: &Binding, at: Wall) -> String {
    let text = String::from_utf8_lossy(&lock.bytes);
    let version = text.split_once("\"version\": \"").and_then(|rest| rest.1.split('"').next()).unwrap_or("");
    format!(
        "{{\"fingerprint\":\"blake3:{}\",\"name\":\"{}\",\"version\":\"{version}\",\"sequence\":{},\"image\":\"{}\",\"signed_at\":\"{at}\"}}",
        lock.fingerprint,
        NAMES.get(usize::from(lock.name)).copied().unwrap_or(""),
        lock.sequence,
        lock.image
    )
}

fn text_of(at: Wall) -> String {
    let mut text = String::new();
    at.write_rfc3339(&mut text);
    text
}

fn draft(recipe: &Recipe, number: u8, sequence: u64, image: Digest) -> Option<Draft> {
    let tag = format!("r{number}");
    let policy = policies::variant(recipe.bound())?;
    let version = if recipe.flaw == Flaw::LockVersion { "7.7.7".to_owned() } else { format!("1.{}.0", policy.number) };
    let runtime = if recipe.flaw == Flaw::LockRuntime { ">=99.0.0" } else { ">=1.0.0 <2.0.0" };
    Some(Draft {
        name: NAMES.get(usize::from(recipe.name)).copied()?.to_owned(),
        version: Version::parse(&format!("1.0.{number}")).ok()?,
        sequence,
        channels: recipe.channels.iter().map(|channel| (*channel).to_owned()).collect(),
        agent_artifact: AgentArtifact { reference: format!("registry.sim/agent:{tag}"), digest: image },
        policy_bundle: PolicyBundle {
            reference: format!("registry.sim/agent:{tag}-policy"),
            digest: Digest::of(&policy.bytes),
            version: Version::parse(&version).ok()?,
        },
        runtime: Runtime::parse(runtime).ok()?,
        inputs: Inputs::default(),
    })
}

/// Attaches a lock to an image and signs it.
fn attach_lock(
    all: &mut Catalogue,
    number: u8,
    recipe: &Recipe,
    image: &Descriptor,
    sequence: u64,
) -> Option<(u8, Descriptor)> {
    let flaw = recipe.flaw;
    let bound = if flaw == Flaw::OtherImage { all.releases.first()?.image.digest } else { image.digest };
    let lock = Lock::new(draft(recipe, number, sequence, bound)?).ok()?;
    let mut bytes = lock.to_bytes();
    if flaw == Flaw::Fingerprint {
        // Signed as it is, and says something else than its fingerprint.
        let text = String::from_utf8(bytes).ok()?;
        bytes = text.replace(&format!("1.0.{number}"), "1.0.999").into_bytes();
    }
    let kept = all.registry.attach(Part::Lock, media::LOCK, &bytes, image, &format!("r{number}-lock"));
    let date = text_of(if flaw == Flaw::LockOld { day(-800) } else { day(recipe.day) });
    if flaw != Flaw::LockUnsigned {
        all.registry.sign(&kept, recipe.layout, recipe.key, Some(&date));
    }
    let wrong = [Flaw::LockUnsigned, Flaw::LockOld, Flaw::Fingerprint, Flaw::LockVersion, Flaw::LockRuntime];
    let usable = policies::variant(recipe.bound()).is_some_and(|policy| policy.opened.is_ok());
    let at = u8::try_from(all.locks.len()).ok()?;
    all.locks.push(Binding {
        number: at,
        name: recipe.name,
        sequence,
        channels: recipe.channels,
        variant: recipe.bound(),
        image: bound,
        fingerprint: lock.fingerprint,
        genuine: !wrong.contains(&flaw) && usable && recipe.bound() != policies::INCOMPATIBLE,
        bytes,
        slots: Vec::new(),
    });
    Some((at, kept))
}

fn build(all: &mut Catalogue, number: u8, recipe: Recipe) -> Option<Release> {
    let (image, blobs) = image(all, number, &recipe);
    let tag = format!("r{number}");
    all.registry.tags.insert(tag.clone(), image.digest);
    let policy = policies::variant(recipe.variant)?;
    let flaw = recipe.flaw;
    let (new, old) = (day(recipe.day), day(-800));
    let signed = if flaw == Flaw::BadDate { "yesterday".to_owned() } else { text_of(new) };
    let signed = Some(signed).filter(|_| flaw != Flaw::Undated);
    sign_image(&mut all.registry, &image, &recipe, signed.as_deref());

    let mut attached = [None, None];
    let mut lock = None;
    if flaw != Flaw::NoLock {
        let (number, kept) = attach_lock(all, number, &recipe, &image, recipe.sequence)?;
        (lock, attached[0]) = (Some(number), Some(kept));
    }
    if flaw == Flaw::OlderLock {
        // An older lock of the same image, signed as well; the newer one counts.
        attach_lock(all, number, &recipe, &image, recipe.sequence - 1)?;
    }
    if flaw != Flaw::NoPolicy {
        let tag = format!("{tag}-policy");
        let kept = all.registry.attach(Part::Policy, media::POLICY_BUNDLE, &policy.bytes, &image, &tag);
        let key = if flaw == Flaw::PolicyStranger { STRANGER } else { recipe.key };
        // A signature of what is attached needs no date.
        let date = if number.is_multiple_of(2) { signed.as_deref() } else { None };
        all.registry.sign(&kept, recipe.layout, key, date);
        attached[1] = Some(kept);
    }

    if flaw == Flaw::Doubled {
        // Somebody attaches the same lock and the same bundle by manifests of his own, which nobody signed.
        for (part, kept) in [(Part::Lock, &attached[0]), (Part::Policy, &attached[1])] {
            kept.iter().for_each(|kept| all.registry.double(part, kept));
        }
    }

    let undated = [Flaw::Undated, Flaw::BadDate, Flaw::Stranger, Flaw::Unsigned];
    let dates = if undated.contains(&flaw) || [Flaw::OtherDigest, Flaw::Copied, Flaw::Unparsable].contains(&flaw) {
        Vec::new()
    } else if flaw == Flaw::OldBesideNew {
        vec![old, new]
    } else {
        vec![new]
    };
    Some(Release {
        number,
        reference: Reference::parse(&format!("registry.sim/agent:{tag}")).ok()?,
        blobs,
        dates,
        lock,
        expect: recipe.expect,
        crowded: matches!(flaw, Flaw::ManyLayers | Flaw::ManyBundles),
        index: recipe.index,
        attached,
        image,
    })
}

/// The signatures of an image, as the recipe wants them.
fn sign_image(registry: &mut Registry, image: &Descriptor, recipe: &Recipe, date: Option<&str>) {
    let (layout, key) = (recipe.layout, recipe.key);
    let named = |digest: &Digest, date: Option<&str>| {
        let annotations = date.map(|date| (SIGNED_AT.to_owned(), date.to_owned())).into_iter().collect();
        simple::payload(digest, "registry.sim/agent", &annotations)
    };
    match recipe.flaw {
        Flaw::Stranger => registry.sign(image, layout, STRANGER, date),
        Flaw::Unsigned => {}
        Flaw::OtherDigest => {
            // A good signature of something else, moved here.
            let payload = named(&Digest::of(b"something else"), date);
            registry.simple_layer(&image.digest, &payload, &sign(key, &payload));
        }
        Flaw::Copied => {
            // The right words under a good signature of other words (FAULTS S03).
            let other = sign(key, &named(&Digest::of(b"something else"), date));
            registry.made.insert(other.clone(), 0);
            registry.simple_layer(&image.digest, &named(&image.digest, date), &other);
        }
        Flaw::Unparsable => {
            let payload = b"{\"critical\":{},\"optional\":".to_vec();
            registry.simple_layer(&image.digest, &payload, &sign(key, &payload));
            registry.sigstore_bundle(image, b"no bundle", date);
        }
        Flaw::ManyLayers => {
            let junk: Vec<(Vec<u8>, Vec<u8>)> = (0..200u8).map(|n| (vec![n; 40], vec![n; 32])).collect();
            registry.simple_layers(&image.digest, &junk);
            registry.sign(image, Layout::Bundle, key, date);
        }
        Flaw::ManyBundles => {
            for n in 0..70u8 {
                let bytes = bundle::make(&image.digest, &[].into(), |_| vec![n; 32], "nobody");
                registry.sigstore_bundle(image, &bytes, None);
            }
            registry.sign(image, Layout::Simple, key, date);
        }
        Flaw::OldBesideStranger => {
            registry.sign(image, layout, key, date);
            let mut new = String::new();
            day(15).write_rfc3339(&mut new);
            registry.sign(image, layout, STRANGER, Some(&new));
        }
        Flaw::OldBesideNew => {
            let mut old = String::new();
            day(-800).write_rfc3339(&mut old);
            registry.sign(image, layout, key, Some(&old));
            registry.sign(image, layout, key, date);
        }
        Flaw::None
        | Flaw::Undated
        | Flaw::BadDate
        | Flaw::LockUnsigned
        | Flaw::LockOld
        | Flaw::PolicyStranger
        | Flaw::OtherImage
        | Flaw::OtherBundle
        | Flaw::Fingerprint
        | Flaw::LockVersion
        | Flaw::LockRuntime
        | Flaw::NoLock
        | Flaw::NoPolicy
        | Flaw::NoPlatform
        | Flaw::OlderLock
        | Flaw::Doubled => registry.sign(image, layout, key, date),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_what_they_are_called() {
        assert_eq!(ALL.releases.len(), usize::from(COUNT));
        let flaw = |number: u8| RECIPES[usize::from(number)].flaw;
        assert_eq!(TELLING.map(flaw), [Flaw::Stranger, Flaw::OtherImage, Flaw::Fingerprint, Flaw::Copied]);
        for number in 0..GOOD {
            assert_eq!((flaw(number), RECIPES[usize::from(number)].expect), (Flaw::None, Expect::Pass));
        }
        for (number, release) in (0..5u8).zip(&ALL.releases) {
            let lock = &ALL.locks[usize::from(release.lock.unwrap())];
            assert_eq!((lock.variant, lock.name), (number, 0), "the first releases are those of the policies");
        }
        let newest = ALL.releases.iter().flat_map(|release| &release.dates).max();
        assert_eq!(newest, ALL.releases[usize::from(FUTURE)].dates.first());
        let mut images: Vec<Digest> = ALL.releases.iter().map(|release| release.image.digest).collect();
        images.sort_unstable();
        images.dedup();
        assert_eq!(images.len(), usize::from(COUNT));
    }
}
