//! The decision rule (SPEC 3), in the one place where it is: a call is allowed if and only if `allow` is true,
//! `deny` is empty, and nothing failed.

use alloc::collections::BTreeSet;
use alloc::string::String;

use crate::json::Value;

/// What the two queries of a policy gave; `None` is undefined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evaluation {
    /// `data.autonomy.allow`
    pub allow: Option<Value>,
    /// `data.autonomy.deny`; a set comes as an array.
    pub deny: Option<Value>,
}

/// Why there is no evaluation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EvaluationFault {
    /// The engine reported an error, in its words.
    Error(String),
    /// The evaluation ran past its bound.
    Budget,
    /// The engine panicked, or its worker is gone.
    Panic,
}

/// The decision on one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The tool may run once the decision is durable.
    Allow,
    /// The tool never runs; the reason as the caller and the record get it.
    Deny(String),
}

/// No rule allowed the call.
pub const NO_MATCH: &str = "no_match";
/// The evaluation failed.
pub const EVALUATOR_ERROR: &str = "evaluator_error";
/// `allow` is no boolean, or `deny` no set of strings.
pub const TYPE_ERROR: &str = "type_error";
/// The evaluation ran past its bound.
pub const BUDGET: &str = "budget";

/// Longest reason, in bytes; a longer list of deny reasons is cut and ends in an ellipsis, so that a policy
/// cannot make a record that does not fit its frame.
pub const MAX_REASON: usize = 4096;

/// Decides. A fault denies whatever else was found; then wrong types; then any deny reason; then the absence
/// of a true `allow`.
#[must_use]
pub fn decide(evaluation: Result<&Evaluation, &EvaluationFault>) -> Verdict {
    let evaluation = match evaluation {
        Ok(evaluation) => evaluation,
        Err(EvaluationFault::Budget) => return deny(BUDGET),
        Err(EvaluationFault::Error(_) | EvaluationFault::Panic) => return deny(EVALUATOR_ERROR),
    };
    let Some(allow) = evaluation.allow.as_ref().map_or(Some(false), Value::as_bool) else {
        return deny(TYPE_ERROR);
    };
    let Some(reasons) = reasons(evaluation.deny.as_ref()) else {
        return deny(TYPE_ERROR);
    };
    if !reasons.is_empty() {
        Verdict::Deny(joined(&reasons))
    } else if allow {
        Verdict::Allow
    } else {
        deny(NO_MATCH)
    }
}

fn deny(reason: &str) -> Verdict {
    Verdict::Deny(String::from(reason))
}

/// The deny reasons, sorted and unique; `None` when the value is no set of strings.
fn reasons(deny: Option<&Value>) -> Option<BTreeSet<&str>> {
    match deny {
        None => Some(BTreeSet::new()),
        Some(value) => value.as_array()?.iter().map(Value::as_str).collect(),
    }
}

fn joined(reasons: &BTreeSet<&str>) -> String {
    const ELLIPSIS: &str = "…";
    let mut out = String::new();
    let mut before = "";
    for reason in reasons {
        out.push_str(before);
        out.push_str(reason);
        before = "; ";
        if out.len() > MAX_REASON {
            out.truncate(out.floor_char_boundary(MAX_REASON.saturating_sub(ELLIPSIS.len())));
            out.push_str(ELLIPSIS);
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Number;
    use proptest::prelude::*;
    use std::format;
    use std::string::ToString;
    use std::vec;
    use std::vec::Vec;

    fn list(items: &[&str]) -> Value {
        Value::Array(items.iter().map(|item| Value::from(*item)).collect())
    }

    fn wrong_types() -> Vec<Value> {
        vec![
            Value::Null,
            Value::Number(Number::ZERO),
            Value::from(1_u64),
            Value::from("true"),
            Value::from(""),
            Value::Object([].into()),
            Value::Object([("x".to_string(), Value::Bool(true))].into()),
        ]
    }

    /// Every kind of `allow` with what it means: `None` is a type error.
    fn allows() -> Vec<(Option<Value>, Option<bool>)> {
        let mut all = vec![
            (None, Some(false)),
            (Some(Value::Bool(false)), Some(false)),
            (Some(Value::Bool(true)), Some(true)),
            (Some(list(&[])), None),
            (Some(Value::Array(vec![Value::Bool(true)])), None),
        ];
        all.extend(wrong_types().into_iter().map(|value| (Some(value), None)));
        all
    }

    /// Every kind of `deny` with its text: `None` is a type error, empty is no reason.
    fn denies() -> Vec<(Option<Value>, Option<&'static str>)> {
        let mut all = vec![
            (None, Some("")),
            (Some(list(&[])), Some("")),
            (Some(list(&["b"])), Some("b")),
            (Some(list(&["b", "a", "b"])), Some("a; b")),
            (Some(Value::Bool(false)), None),
            (Some(Value::Bool(true)), None),
            (Some(Value::Array(vec![Value::from("a"), Value::Null])), None),
            (Some(Value::Array(vec![Value::from(1_u64)])), None),
            (Some(Value::Array(vec![list(&["a"])])), None),
        ];
        all.extend(wrong_types().into_iter().map(|value| (Some(value), None)));
        all
    }

    #[test]
    fn p03_p04_p23_every_pair_of_results_is_decided_by_the_rule() {
        let mut allowed = 0;
        for (allow, allow_means) in allows() {
            for (deny, deny_means) in denies() {
                let evaluation = Evaluation { allow: allow.clone(), deny: deny.clone() };
                let want = match (allow_means, deny_means) {
                    (None, _) | (_, None) => Verdict::Deny("type_error".to_string()),
                    (Some(_), Some(reasons)) if !reasons.is_empty() => Verdict::Deny(reasons.to_string()),
                    (Some(true), Some(_)) => Verdict::Allow,
                    (Some(false), Some(_)) => Verdict::Deny("no_match".to_string()),
                };
                assert_eq!(decide(Ok(&evaluation)), want, "{evaluation:?}");
                allowed += usize::from(want == Verdict::Allow);
            }
        }
        assert_eq!(allowed, 2, "true with an absent or empty deny, and nothing else");
    }

    #[test]
    fn p02_every_fault_denies() {
        for (fault, reason) in [
            (EvaluationFault::Error("x".to_string()), "evaluator_error"),
            (EvaluationFault::Panic, "evaluator_error"),
            (EvaluationFault::Budget, "budget"),
        ] {
            assert_eq!(decide(Err(&fault)), Verdict::Deny(reason.to_string()));
        }
    }

    #[test]
    fn a_deny_set_with_an_empty_reason_still_denies() {
        let evaluation = Evaluation { allow: Some(Value::Bool(true)), deny: Some(list(&[""])) };
        assert_eq!(decide(Ok(&evaluation)), Verdict::Deny(String::new()));
    }

    #[test]
    fn long_reasons_are_cut_between_characters() {
        for reason in ["é".repeat(5000), "x".repeat(4097)] {
            let deny = Value::Array((0..100).map(|n| Value::from(format!("{reason}{n}"))).collect());
            match decide(Ok(&Evaluation { allow: None, deny: Some(deny) })) {
                Verdict::Deny(text) => {
                    assert!(text.len() <= MAX_REASON && text.len() > MAX_REASON - 4 && text.ends_with('…'));
                }
                Verdict::Allow => panic!("allowed"),
            }
        }
        let exact = "x".repeat(4096);
        let evaluation = Evaluation { allow: None, deny: Some(list(&[&exact])) };
        assert_eq!(decide(Ok(&evaluation)), Verdict::Deny(exact));
    }

    proptest! {
        #[test]
        fn p03_deny_wins_over_everything(reasons in prop::collection::vec("[a-z]{1,8}", 1..6), allow in any::<bool>()) {
            let deny = Value::Array(reasons.iter().map(|r| Value::from(r.as_str())).collect());
            let evaluation = Evaluation { allow: Some(Value::Bool(allow)), deny: Some(deny) };
            let mut sorted = reasons;
            sorted.sort();
            sorted.dedup();
            prop_assert_eq!(decide(Ok(&evaluation)), Verdict::Deny(sorted.join("; ")));
        }

        #[test]
        fn p04_only_true_and_no_deny_allow(
            allow in prop::option::of(crate::json::tests::any_value()),
            deny in prop::option::of(crate::json::tests::any_value()),
        ) {
            let allowed = allow == Some(Value::Bool(true)) && deny.as_ref().is_none_or(|d| *d == list(&[]));
            let verdict = decide(Ok(&Evaluation { allow, deny }));
            prop_assert_eq!(verdict == Verdict::Allow, allowed);
        }
    }
}
