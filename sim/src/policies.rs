//! Policies whose verdicts are known beforehand.
//!
//! A simulated policy is a real bundle whose `data.json` says which variant it is; what a variant makes of a class of
//! calls is [`want`], and both the simulated engine and the oracle read it there: the engine to answer, the oracle to
//! judge what the system made of the answer.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use machines::ids::Hash32;
use machines::json::Value;
use machines::policy::bundle::{self, BuildOptions, Bundle};
use machines::policy::verdict::{Evaluation, EvaluationFault};
use machines::work::Compiled;

/// How many variants there are.
pub const VARIANTS: u8 = 9;
/// Variants that load on any node without history.
pub const GOOD: u8 = 5;
/// The variant that bars all below itself by `min_sequence`.
pub const BARRING: u8 = 4;
/// A variant that wants another runtime.
pub const INCOMPATIBLE: u8 = 5;
/// A variant whose bytes are cut short.
pub const BROKEN: u8 = 6;
/// A variant below every other sequence: barred once `BARRING` was loaded.
pub const OLD: u8 = 7;
/// A variant that the engine refuses to compile.
pub const UNCOMPILABLE: u8 = 8;

/// Classes of calls.
pub const CLASSES: u8 = 12;
/// The class that every variant allows.
pub const ALWAYS: u8 = 0;

/// What a policy makes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// `allow`, nothing else.
    Allow,
    /// `allow`, but only after about the backstop's time.
    SlowAllow,
    /// Deny reasons, in the order in which the engine gives them, beside an `allow` or not.
    Deny {
        /// The reasons.
        reasons: &'static [&'static str],
        /// The sorted reasons as the caller gets them.
        joined: &'static str,
        /// `allow` is true as well.
        beside_allow: bool,
    },
    /// Neither.
    NoMatch,
    /// The engine reports an error.
    Error,
    /// The engine panics.
    Panic,
    /// `allow` is no boolean.
    TypeError,
    /// The engine's own bound is reached.
    Budget,
    /// The engine never comes back.
    Hang,
}

/// What `variant` makes of calls of `class`.
#[must_use]
pub const fn want(variant: u8, class: u8) -> Want {
    match class {
        0 => Want::Allow,
        1 => Want::Deny { reasons: &["no"], joined: "no", beside_allow: false },
        2 if variant.is_multiple_of(2) => Want::Allow,
        2 => Want::Deny { reasons: &["odd"], joined: "odd", beside_allow: true },
        3 => Want::Deny { reasons: &["zeta", "alpha"], joined: "alpha; zeta", beside_allow: true },
        4 => Want::Error,
        5 => Want::TypeError,
        6 => Want::Budget,
        7 => Want::Hang,
        8 => Want::NoMatch,
        9 => Want::Panic,
        10 => Want::SlowAllow,
        _ if variant % 3 == 1 => Want::NoMatch,
        _ => Want::Allow,
    }
}

impl Want {
    /// Whether the decision rule may make an allow of it.
    #[must_use]
    pub const fn may_allow(self) -> bool {
        matches!(self, Self::Allow | Self::SlowAllow)
    }

    /// The reason of the deny that follows from it; `None` when none does.
    #[must_use]
    pub const fn reason(self) -> Option<&'static str> {
        match self {
            Self::Allow | Self::SlowAllow => None,
            Self::Deny { joined, .. } => Some(joined),
            Self::NoMatch => Some("no_match"),
            Self::Error | Self::Panic => Some("evaluator_error"),
            Self::TypeError => Some("type_error"),
            Self::Budget | Self::Hang => Some("budget"),
        }
    }

    /// What the engine gives; `None` when it never comes back.
    #[must_use]
    pub fn evaluate(self) -> Option<Result<Evaluation, EvaluationFault>> {
        let list = |items: &[&str]| Some(Value::Array(items.iter().map(|item| Value::from(*item)).collect()));
        Some(match self {
            Self::Allow | Self::SlowAllow => Ok(Evaluation { allow: Some(Value::Bool(true)), deny: None }),
            Self::Deny { reasons, beside_allow, .. } => {
                Ok(Evaluation { allow: beside_allow.then_some(Value::Bool(true)), deny: list(reasons) })
            }
            Self::NoMatch => Ok(Evaluation { allow: None, deny: list(&[]) }),
            Self::Error => Err(EvaluationFault::Error("simulated".into())),
            Self::Panic => Err(EvaluationFault::Panic),
            Self::TypeError => Ok(Evaluation { allow: Some(Value::from("true")), deny: None }),
            Self::Budget => Err(EvaluationFault::Budget),
            Self::Hang => return None,
        })
    }
}

/// A bundle of the simulation.
#[derive(Debug)]
pub struct Variant {
    /// Its number.
    pub number: u8,
    /// The bundle's bytes.
    pub bytes: Vec<u8>,
    /// SHA-256 of the bytes, which names it in storage.
    pub digest: Hash32,
    /// How answers name it.
    pub bundle_hash: Hash32,
    /// `sequence`
    pub sequence: u64,
    /// `min_sequence`
    pub min_sequence: u64,
    /// What `OpenBundle` gives.
    pub opened: Result<(Arc<Bundle>, Compiled), String>,
}

/// What the simulated engine keeps of a compiled bundle.
#[derive(Debug)]
pub struct SimPolicy(pub u8);

/// All variants.
pub static ALL: LazyLock<Vec<Variant>> = LazyLock::new(|| (0..VARIANTS).map(build).collect());

fn build(number: u8) -> Variant {
    let sequence = match number {
        OLD => 1,
        n => u64::from(n) + 2,
    };
    let min_sequence = if number == BARRING { sequence } else { 0 };
    let options = BuildOptions {
        version: format!("1.{number}.0"),
        sequence,
        min_sequence,
        runtime_version: (number == INCOMPATIBLE).then(|| ">=99.0.0".to_owned()),
        ..BuildOptions::default()
    };
    let files = BTreeMap::from([
        ("policy.rego".to_owned(), b"package autonomy\nimport rego.v1\nallow if data.sim.variant >= 0\n".to_vec()),
        ("data.json".to_owned(), format!("{{\"sim\":{{\"variant\":{number}}}}}").into_bytes()),
    ]);
    let mut bytes = bundle::build(&files, &options).unwrap_or_default();
    let whole = bundle::open(&bytes);
    let (digest, bundle_hash) =
        whole.as_ref().map_or((Hash32([0; 32]), Hash32([0; 32])), |b| (b.digest, b.bundle_hash));
    if number == BROKEN {
        bytes.truncate(bytes.len() / 2);
    }
    let opened = match bundle::open(&bytes) {
        Err(why) => Err(why.to_string()),
        Ok(_) if number == UNCOMPILABLE => Err("policy.rego:3: the engine cannot bound this".to_owned()),
        Ok(bundle) => Ok((Arc::new(bundle), Compiled(Arc::new(SimPolicy(number))))),
    };
    Variant { number, bytes, digest, bundle_hash, sequence, min_sequence, opened }
}

/// The variant of this number.
#[must_use]
pub fn variant(number: u8) -> Option<&'static Variant> {
    ALL.get(usize::from(number))
}

/// The variant that answers name by this hash.
#[must_use]
pub fn by_bundle_hash(hash: &Hash32) -> Option<&'static Variant> {
    ALL.iter().find(|v| v.bundle_hash == *hash && v.opened.is_ok())
}

/// What `OpenBundle` gives for these bytes. Bytes that nobody built are looked at by the real reader.
///
/// # Errors
/// Why the bytes are refused as a bundle.
pub fn open(bytes: &[u8]) -> Result<(Arc<Bundle>, Compiled), String> {
    if let Some(known) = ALL.iter().find(|v| v.bytes == bytes) {
        return known.opened.clone();
    }
    match bundle::open(bytes) {
        Ok(bundle) => Ok((Arc::new(bundle), Compiled(Arc::new(SimPolicy(u8::MAX))))),
        Err(why) => Err(why.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machines::policy::verdict::{Verdict, decide};

    #[test]
    fn variants_are_what_they_are_called() {
        for v in ALL.iter() {
            let fine = v.number != BROKEN && v.number != UNCOMPILABLE;
            assert_eq!(v.opened.is_ok(), fine, "variant {}: {:?}", v.number, v.opened.as_ref().err());
            assert_eq!(by_bundle_hash(&v.bundle_hash).map(|w| w.number), fine.then_some(v.number));
        }
    }

    /// The oracle's expectation and the decision rule agree where both speak; the rule's own tests are elsewhere.
    #[test]
    fn p03_the_rule_makes_of_each_class_what_the_oracle_wants() {
        for number in 0..VARIANTS {
            for class in 0..CLASSES {
                let want = want(number, class);
                let Some(got) = want.evaluate() else { continue };
                let verdict = decide(got.as_ref());
                match want.reason() {
                    None => assert_eq!(verdict, Verdict::Allow, "{number} {class}"),
                    Some(reason) => assert_eq!(verdict, Verdict::Deny(reason.into()), "{number} {class}"),
                }
            }
        }
    }
}
