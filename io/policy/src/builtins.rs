//! Which builtin functions exist, what they take, and what a call may cost.
//!
//! A function that is not in [`TABLE`] as allowed does not exist for a policy: a bundle that names it anywhere,
//! also in a rule that nothing uses, is refused. The cost of a call is known before it runs (see [`crate::guard`]).

use anyhow::bail;
use regorus::Value;

use crate::cost::{self, Cost};

/// The types that an argument may have; or-ed together.
pub(crate) type Kinds = u8;
/// A string.
pub(crate) const T: Kinds = 1;
/// A number.
pub(crate) const N: Kinds = 2;
/// An array.
pub(crate) const A: Kinds = 4;
/// A set.
pub(crate) const S: Kinds = 8;
/// An object.
pub(crate) const O: Kinds = 16;
/// `true`, `false`
pub(crate) const B: Kinds = 32;
/// `null`
pub(crate) const Z: Kinds = 64;
/// Anything.
pub(crate) const X: Kinds = T | N | A | S | O | B | Z;

/// What is decided about a builtin function.
pub(crate) enum Decision {
    /// It may be called.
    Allowed(Signature),
    /// It may not, for this reason.
    Refused(&'static str),
}

/// How an allowed function is called.
pub(crate) struct Signature {
    /// The types of its arguments.
    pub args: &'static [Kinds],
    /// What a call costs; the arguments have the right types.
    pub cost: fn(&[Value]) -> Cost,
    /// Which argument is a regular expression.
    pub pattern: Option<usize>,
}

const fn allow(args: &'static [Kinds], cost: fn(&[Value]) -> Cost) -> Decision {
    Decision::Allowed(Signature { args, cost, pattern: None })
}

const fn regex(args: &'static [Kinds], pattern: usize, cost: fn(&[Value]) -> Cost) -> Decision {
    Decision::Allowed(Signature { args, cost, pattern: Some(pattern) })
}

const NETWORK: &str = "reaches the network";
const CLOCK: &str = "reads the clock";
const RANDOM: &str = "is random";
const ENVIRONMENT: &str = "reads the environment";
const UNBOUNDED: &str = "cannot be bounded in memory and time";
const OUTPUT: &str = "is for `policy test` and `policy eval --explain`; remove it from the bundle";

/// Every builtin function of the engine, and those of OPA that a policy author may expect, in byte order.
pub(crate) static TABLE: &[(&str, Decision)] = &[
    ("__builtin_sets.intersection", Decision::Refused("is internal; write `&`")),
    ("__builtin_sets.union", Decision::Refused("is internal; write `|`")),
    ("abs", allow(&[N], cost::numbers)),
    ("array.concat", allow(&[A, A], cost::copy)),
    ("array.reverse", allow(&[A], cost::copy)),
    ("array.slice", allow(&[A, N, N], cost::copy)),
    ("base64.decode", allow(&[T], cost::encode)),
    ("base64.encode", allow(&[T], cost::encode)),
    ("base64.is_valid", allow(&[T], cost::encode)),
    ("base64url.decode", allow(&[T], cost::encode)),
    ("base64url.encode", allow(&[T], cost::encode)),
    ("base64url.encode_no_pad", allow(&[T], cost::encode)),
    ("bits.and", allow(&[N, N], cost::numbers)),
    ("bits.lsh", allow(&[N, N], cost::shift)),
    ("bits.negate", allow(&[N], cost::numbers)),
    ("bits.or", allow(&[N, N], cost::numbers)),
    ("bits.rsh", allow(&[N, N], cost::numbers)),
    ("bits.xor", allow(&[N, N], cost::numbers)),
    ("ceil", allow(&[N], cost::numbers)),
    ("concat", allow(&[T, A | S], cost::concat)),
    ("contains", allow(&[T, T], cost::scan)),
    ("count", allow(&[T | A | S | O], cost::scan)),
    ("endswith", allow(&[T, T], cost::scan)),
    ("floor", allow(&[N], cost::numbers)),
    ("format_int", allow(&[N, N], cost::numbers)),
    ("glob.match", allow(&[T, A | Z, T], cost::glob)),
    ("glob.quote_meta", allow(&[T], cost::glob)),
    ("graph.reachable", Decision::Refused(UNBOUNDED)),
    ("graph.reachable_paths", Decision::Refused(UNBOUNDED)),
    ("hex.decode", allow(&[T], cost::encode)),
    ("hex.encode", allow(&[T], cost::encode)),
    ("http.send", Decision::Refused(NETWORK)),
    ("indexof", allow(&[T, T], cost::search)),
    ("indexof_n", allow(&[T, T], cost::search)),
    ("intersection", allow(&[S], cost::fold)),
    ("is_array", allow(&[X], cost::free)),
    ("is_boolean", allow(&[X], cost::free)),
    ("is_null", allow(&[X], cost::free)),
    ("is_number", allow(&[X], cost::free)),
    ("is_object", allow(&[X], cost::free)),
    ("is_set", allow(&[X], cost::free)),
    ("is_string", allow(&[X], cost::free)),
    ("json.filter", allow(&[O, A | S], cost::paths)),
    ("json.is_valid", allow(&[T], cost::parse)),
    ("json.marshal", allow(&[X], cost::write)),
    ("json.marshal_with_options", Decision::Refused(UNBOUNDED)),
    ("json.remove", allow(&[O, A | S], cost::paths)),
    ("json.unmarshal", allow(&[T], cost::parse)),
    ("lower", allow(&[T], cost::encode)),
    ("max", allow(&[A | S], cost::deep)),
    ("min", allow(&[A | S], cost::deep)),
    ("net.lookup_ip_addr", Decision::Refused(NETWORK)),
    ("numbers.range", allow(&[N, N], cost::range)),
    ("numbers.range_step", allow(&[N, N, N], cost::range)),
    ("object.filter", allow(&[O, A | S | O], cost::copy)),
    ("object.get", allow(&[O, X, X], cost::free)),
    ("object.keys", allow(&[O], cost::copy)),
    ("object.remove", allow(&[O, A | S | O], cost::copy)),
    ("object.subset", allow(&[A | S | O, A | S | O], cost::pairs)),
    ("object.union", allow(&[O, O], cost::deep)),
    ("object.union_n", allow(&[A], cost::fold)),
    ("opa.runtime", Decision::Refused(ENVIRONMENT)),
    ("print", Decision::Refused(OUTPUT)),
    ("product", allow(&[A | S], cost::product)),
    ("rand.intn", Decision::Refused(RANDOM)),
    ("regex.find_all_string_submatch_n", regex(&[T, T, N], 0, cost::regex_groups)),
    ("regex.find_n", regex(&[T, T, N], 0, cost::regex)),
    ("regex.is_valid", regex(&[T], 0, cost::regex)),
    ("regex.match", regex(&[T, T], 0, cost::regex)),
    ("regex.replace", regex(&[T, T, T], 1, cost::regex_replace)),
    ("regex.split", regex(&[T, T], 0, cost::regex)),
    ("regex.template_match", Decision::Refused(UNBOUNDED)),
    ("replace", allow(&[T, T, T], cost::replace)),
    ("round", allow(&[N], cost::numbers)),
    ("semver.compare", allow(&[T, T], cost::scan)),
    ("semver.is_valid", allow(&[T], cost::scan)),
    ("sort", allow(&[A | S], cost::deep)),
    ("split", allow(&[T, T], cost::split)),
    ("sprintf", allow(&[T, A], cost::sprintf)),
    ("startswith", allow(&[T, T], cost::scan)),
    ("strings.any_prefix_match", allow(&[T | A | S, T | A | S], cost::any_match)),
    ("strings.any_suffix_match", allow(&[T | A | S, T | A | S], cost::any_match)),
    ("strings.count", allow(&[T, T], cost::count_in)),
    ("strings.replace_n", Decision::Refused(UNBOUNDED)),
    ("strings.reverse", allow(&[T], cost::encode)),
    ("substring", allow(&[T, N, N], cost::encode)),
    ("sum", allow(&[A | S], cost::deep)),
    ("time.now_ns", Decision::Refused(CLOCK)),
    ("to_number", allow(&[T | N | B | Z], cost::parse_number)),
    ("trace", Decision::Refused(OUTPUT)),
    ("trim", allow(&[T, T], cost::search)),
    ("trim_left", allow(&[T, T], cost::search)),
    ("trim_prefix", allow(&[T, T], cost::encode)),
    ("trim_right", allow(&[T, T], cost::search)),
    ("trim_space", allow(&[T], cost::encode)),
    ("trim_suffix", allow(&[T, T], cost::encode)),
    ("type_name", allow(&[X], cost::free)),
    ("union", allow(&[S], cost::fold)),
    ("units.parse", allow(&[T], cost::parse_number)),
    ("units.parse_bytes", allow(&[T], cost::parse_number)),
    ("upper", allow(&[T], cost::encode)),
    ("uuid.parse", Decision::Refused(RANDOM)),
    ("uuid.rfc4122", Decision::Refused(RANDOM)),
    ("walk", Decision::Refused(UNBOUNDED)),
];

/// What is decided about `name`, and its place in [`TABLE`]; `None` when there is no such builtin function.
pub(crate) fn find(name: &str) -> Option<(usize, &'static Decision)> {
    let at = TABLE.binary_search_by(|(other, _)| (*other).cmp(name)).ok()?;
    Some((at, &TABLE.get(at)?.1))
}

/// Whether `arg` has one of the types `kinds`.
fn fits(arg: &Value, kinds: Kinds) -> bool {
    kinds & kind(arg) != 0
}

fn kind(arg: &Value) -> Kinds {
    match arg {
        Value::Null => Z,
        Value::Bool(_) => B,
        Value::Number(_) => N,
        Value::String(_) => T,
        Value::Array(_) => A,
        Value::Set(_) => S,
        Value::Object(_) => O,
        Value::Undefined => 0,
    }
}

/// The types, in words.
pub(crate) fn words(kinds: Kinds) -> String {
    let names = [(T, "string"), (N, "number"), (A, "array"), (S, "set"), (O, "object"), (B, "boolean"), (Z, "null")];
    let names: Vec<_> = names.iter().filter(|(kind, _)| kinds & kind != 0).map(|(_, name)| *name).collect();
    names.join(" or ")
}

/// Checks the types of the arguments. The functions would do so themselves, but repeat the whole value in their
/// message.
///
/// # Errors
/// A message that names the function, the argument and both types.
pub(crate) fn check_args(name: &str, signature: &Signature, args: &[Value]) -> anyhow::Result<()> {
    if args.len() != signature.args.len() {
        bail!("`{name}` takes {} arguments, not {}", signature.args.len(), args.len());
    }
    for (i, (arg, kinds)) in args.iter().zip(signature.args).enumerate() {
        if !fits(arg, *kinds) {
            bail!("`{name}`: argument {} must be {}, not {}", i + 1, words(*kinds), words(kind(arg)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use regorus::unstable::BUILTINS;

    #[test]
    fn p07_every_builtin_of_the_engine_is_decided_on() {
        for name in BUILTINS.keys() {
            assert!(find(name).is_some(), "{name} is new in the engine: allow it with a cost, or refuse it");
        }
    }

    #[test]
    fn the_table_is_sorted_and_agrees_with_the_engine() {
        assert!(TABLE.is_sorted_by(|a, b| a.0 < b.0));
        for (name, decision) in TABLE {
            if let Decision::Allowed(signature) = decision {
                let (_, arity) = BUILTINS.get(name).unwrap_or_else(|| panic!("{name} does not exist"));
                assert_eq!(usize::from(*arity), signature.args.len(), "{name}");
                assert!(signature.pattern.is_none_or(|at| signature.args.get(at) == Some(&T)), "{name}");
            }
        }
    }
}
