//! Every crash point of a small plan: at each effect of the first life, by process crash and by power loss, and then at each
//! effect of the recovery that follows; every crash point of a policy load and of an activation; and every one of a drain, in the background, by
//! a command beside the runtime, and by one that recovers the log first.

use crate::disk::Survival;
use crate::oracles::Failure;
use crate::plan::{Call, Config, Crash, Goal, Lies, Manner, Mask, Order, Part, Plan, Step, Tool, Wants, What, When};
use crate::sweep::run;
use crate::world::World;

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Crash points that were tried, pairs counted once each.
    pub points: u64,
    /// The first plan that failed.
    pub failure: Option<(Plan, Failure)>,
}

const KINDS: [Crash; 4] =
    [Crash::Process, Crash::Power(Survival::Mix), Crash::Power(Survival::MixSubset), Crash::Power(Survival::Nothing)];

/// A plan with a few calls of each kind and one load.
#[must_use]
pub fn small_plan(seed: u64) -> Plan {
    let call = |id, tool, class| What::Call(Call { id, tool, class, pad: 0 });
    let at = |us, what| Step { when: When::At(us), what };
    let steps = vec![
        at(1_000, call(1, Tool::Echo, 0)),
        at(1_005, call(2, Tool::Echo, 1)),
        at(1_010, call(3, Tool::Fail, 0)),
        at(4_000, What::Read),
        at(5_000, call(4, Tool::Echo, 2)),
        at(6_000, What::Load { variant: 1, crash: None }),
        at(9_000, What::Read),
        at(300_000, call(5, Tool::Echo, 2)),
    ];
    let config = Config { heal_us: 310_000, sync_us: 300, tool_timeout_us: 20_000, ..Config::default() };
    Plan { seed, config, mask: Mask::default(), steps }
}

/// A plan with a drain in the background, a poisonous record or more, and an answer that is lost.
#[must_use]
pub fn draining_plan(seed: u64) -> Plan {
    let mut plan = small_plan(seed);
    plan.config.drain = true;
    plan.config.batch = 3;
    plan.config.poison = 5;
    plan.config.past = 6;
    plan.config.patience_us = 50_000;
    let at = |us, what| Step { when: When::At(us), what };
    plan.steps.retain(|step| !matches!(step.what, What::Load { .. }));
    plan.steps.push(at(2_500, What::Collector { manner: Manner::Lost, for_us: 800, retry_us: 0 }));
    plan
}

fn with_crash(plan: &Plan, life: u32, n: u32, kind: Crash) -> Plan {
    let mut plan = plan.clone();
    plan.steps.push(Step { when: When::Effect { life, n }, what: What::Crash { kind, down_us: 1_000 } });
    plan
}

/// Tries every crash point of the plan's first life, and with `twice` every crash point of the recovery behind each.
pub fn crashes(world: &mut World, plan: &Plan, twice: bool) -> Report {
    let mut report = Report::default();
    let whole = run(world, plan);
    if let Some(failure) = whole.failure {
        report.failure = Some((plan.clone(), failure));
        return report;
    }
    let effects = whole.effects.first().copied().unwrap_or(0);
    for n in 0..=effects {
        for first in KINDS {
            let once = with_crash(plan, 1, n, first);
            let outcome = run(world, &once);
            report.points += 1;
            if let Some(failure) = outcome.failure {
                report.failure = Some((once, failure));
                return report;
            }
            if !twice {
                continue;
            }
            // The recovery ends where calls begin again; more effects than this belong to the calls.
            let recovery = outcome.effects.get(1).copied().unwrap_or(0).min(26);
            for m in 0..=recovery {
                for second in [Crash::Process, Crash::Power(Survival::Mix)] {
                    let pair = with_crash(&once, 2, m, second);
                    let outcome = run(world, &pair);
                    report.points += 1;
                    if let Some(failure) = outcome.failure {
                        report.failure = Some((pair, failure));
                        return report;
                    }
                }
            }
        }
    }
    report
}

/// Kills the process of a policy load after each of its effects, and turns the power off every 40 microseconds while it runs.
pub fn loads(world: &mut World, seed: u64) -> Report {
    let mut report = Report::default();
    for (step, kind) in (0..150u64).flat_map(|step| KINDS.map(|kind| (step, kind))) {
        let mut plan = small_plan(seed + step % 5);
        let when = When::At(5_990 + step * 40);
        plan.steps.push(Step { when, what: What::Crash { kind, down_us: 1_000 } });
        report.points += 1;
        if let Some(failure) = run(world, &plan).failure {
            report.failure = Some((plan, failure));
            return report;
        }
    }
    for first in [None, Some(0u8)] {
        for crash in 1..=40u32 {
            for repeat in 0..8u64 {
                let mut plan = small_plan(seed + repeat);
                plan.config.policy = first;
                for step in &mut plan.steps {
                    if let What::Load { crash: after, .. } = &mut step.what {
                        *after = Some(crash);
                    }
                }
                report.points += 1;
                let outcome = run(world, &plan);
                if let Some(failure) = outcome.failure {
                    report.failure = Some((plan, failure));
                    return report;
                }
            }
        }
    }
    report
}

/// Kills a drain's command after each of its effects, beside the runtime and alone with the log, and turns the power off at
/// each of them.
pub fn drains(world: &mut World, seed: u64) -> Report {
    let mut report = Report::default();
    let drain_at = 200_000u64;
    for alone in [false, true] {
        for crash in 1..=90u32 {
            let mut plan = draining_plan(seed + u64::from(crash % 3));
            plan.config.drain = false;
            plan.steps.retain(|step| !matches!(step.what, What::Collector { .. }));
            let at = |us, what| Step { when: When::At(us), what };
            if alone {
                plan.steps.push(at(drain_at - 1_000, What::Crash { kind: Crash::Process, down_us: 60_000 }));
            }
            let power = crash % 2 == 0;
            let killed = What::Drain { batch: 2, crash: (!power).then_some(crash) };
            plan.steps.push(at(drain_at, killed));
            if power {
                let kind = KINDS.get(1 + (crash as usize / 2) % 3).copied().unwrap_or(Crash::Process);
                let when = drain_at + u64::from(crash) * 150;
                plan.steps.push(at(when, What::Crash { kind, down_us: 2_000 }));
            }
            plan.steps.push(at(drain_at + 30_000, What::Drain { batch: 4, crash: None }));
            report.points += 1;
            if let Some(failure) = run(world, &plan).failure {
                report.failure = Some((plan, failure));
                return report;
            }
        }
    }
    report
}

/// Kills the process of an activation after each of its effects, from the first question to the source on, and turns the power
/// off every 60 microseconds while it changes what is in force: the first release of a node, and one after another.
pub fn releases(world: &mut World, seed: u64) -> Report {
    let mut report = Report::default();
    let fetch = |release, goal, crash| {
        let order = Order { release, lies: Lies::default(), on: Part::Any, goal };
        What::Fetch { order, crash }
    };
    let activate = Goal::Activate(Wants::Anything);
    for (verified, goal) in [(false, activate), (true, activate), (true, Goal::Import)] {
        let plan_with = |crash: Option<u32>, repeat: u64| {
            let mut plan = small_plan(seed + repeat);
            plan.config.verified = verified;
            plan.config.policy = verified.then_some(0);
            plan.steps.retain(|step| !matches!(step.what, What::Load { .. }));
            plan.steps.push(Step { when: When::At(6_000), what: fetch(2, goal, crash) });
            plan
        };
        for crash in 1..=75u32 {
            for repeat in 0..4u64 {
                let mut plan = plan_with(Some(crash), repeat);
                // The next operator finds what the first one left.
                plan.steps.push(Step { when: When::At(150_000), what: fetch(3, goal, None) });
                report.points += 1;
                if let Some(failure) = run(world, &plan).failure {
                    report.failure = Some((plan, failure));
                    return report;
                }
            }
        }
        for (step, kind) in (0..700u64).map(|step| (step, KINDS.get(step as usize % 4).copied())) {
            let mut plan = plan_with(None, 0);
            let kind = kind.unwrap_or(Crash::Process);
            plan.steps.push(Step { when: When::At(8_000 + step * 60), what: What::Crash { kind, down_us: 1_000 } });
            report.points += 1;
            if let Some(failure) = run(world, &plan).failure {
                report.failure = Some((plan, failure));
                return report;
            }
        }
    }
    report
}
