//! From a seed to a plan: which kinds of faults a run has, how the node is configured, what its users do and what breaks.

use crate::disk::Survival;
use crate::plan::{
    Call, Config, Crash, FileKind, Goal, KINDS, LIES, Lies, MANNERS, Manner, Mask, OpKind, Order, PARTS, Part, Plan,
    Step, Tool, WANTS, Wants, What, When,
};
use crate::policies::{self, BARRING, BROKEN, GOOD, INCOMPATIBLE, OLD, UNCOMPILABLE};
use crate::prechecks;
use crate::releases::{self, COUNT, FUTURE};
use crate::rng::{Rng, Stream};

/// In how many of 48 runs each kind is on, in the order of `plan::KINDS`.
const ODDS: [(&str, u64); 35] = [
    ("process", 24),
    ("power", 24),
    ("double", 16),
    ("nospace", 8),
    ("opfail", 8),
    ("syncfail", 7),
    ("stall", 6),
    ("rot", 7),
    ("misdirect", 2),
    ("cutlive", 2),
    ("clock", 12),
    ("pause", 8),
    ("loads", 20),
    ("loadcrash", 16),
    ("badbundles", 16),
    ("badtools", 20),
    ("badpolicies", 24),
    ("tinylog", 1),
    ("tinylimit", 6),
    ("bursts", 24),
    ("stops", 8),
    ("reader", 36),
    ("strict", 2),
    ("nopolicy", 4),
    ("drain", 9),
    ("drains", 9),
    ("draincrash", 16),
    ("collector", 16),
    ("poison", 6),
    ("past", 5),
    ("releases", 6),
    ("lies", 30),
    ("years", 16),
    ("verified", 20),
    ("precheck", 6),
];

/// The plan of a seed.
#[must_use]
pub fn plan(seed: u64) -> Plan {
    let mask = mask(seed);
    let config = config(seed, mask);
    let mut steps = Vec::with_capacity(64);
    workload(seed, mask, &config, &mut steps);
    faults(seed, mask, &config, &mut steps);
    steps.sort_by_key(|step| match step.when {
        When::At(us) => (us, 0),
        When::Effect { life, n } => (u64::MAX - 1, u64::from(life) << 32 | u64::from(n)),
        When::Seal { nth, step } => (u64::MAX, u64::from(nth) << 32 | u64::from(step)),
    });
    Plan { seed, config, mask, steps }
}

/// Which kinds of faults the run of a seed has.
#[must_use]
pub fn mask(seed: u64) -> Mask {
    let mut rng = Rng::new(seed, Stream::Mask, 0);
    let mut mask = Mask::default();
    // Some runs have no faults at all, so that what is wrong without any is seen without any.
    let calm = rng.ratio(1, 12);
    for (kind, odds) in ODDS {
        let on = rng.ratio(odds, 48);
        const LOAD: [&str; 11] = [
            "loads",
            "badtools",
            "badpolicies",
            "tinylog",
            "bursts",
            "reader",
            "drain",
            "drains",
            "past",
            "releases",
            "verified",
        ];
        let load = LOAD.contains(&kind);
        mask.set(kind, on && (load || !calm));
    }
    mask
}

fn config(seed: u64, mask: Mask) -> Config {
    let mut rng = Rng::new(seed, Stream::Config, 0);
    let heal_us = match (mask.has("loads"), rng.range(0, 3)) {
        (true, _) => rng.range(500_000, 1_400_000),
        (false, 0) => rng.range(60_000, 200_000),
        (false, _) => rng.range(150_000, 700_000),
    };
    Config {
        max_in_flight: if mask.has("tinylimit") { rng.range32(1, 6) } else { rng.range32(32, 256) },
        max_bytes: if mask.has("tinylog") { 1 << 20 } else { 1 << 30 },
        retain_us: rng.pick(&[1_000, 100_000, 10_000_000], 100_000),
        shed: rng.ratio(1, 3),
        strict: mask.has("strict"),
        shell: rng.ratio(1, 2),
        tool_timeout_us: rng.range(5_000, 60_000),
        backstop_us: rng.range(3_000, 30_000),
        policy: if mask.has("nopolicy") { None } else { Some(u8::try_from(rng.range(0, 3)).unwrap_or(0)) },
        sync_us: rng.pick(&[60, 200, 500, 1_500, 4_000], 500),
        heal_us: heal_us + if mask.has("precheck") { prechecks::LONGER_US } else { 0 },
        precheck: mask.has("precheck"),
        verified: mask.has("releases") && mask.has("verified"),
        ..delivery(seed, mask)
    }
}

/// The part of the configuration that is about the drain, with numbers of its own.
fn delivery(seed: u64, mask: Mask) -> Config {
    let mut rng = Rng::new(seed, Stream::Config, 1);
    Config {
        drain: mask.has("drain"),
        batch: rng.pick(&[1, 3, 8, 20, 100, 512, 512, 512], 512),
        patience_us: rng.pick(&[20_000, 100_000, 600_000, 2_000_000], 400_000),
        poison: if mask.has("poison") { rng.pick(&[3, 5, 9, 40], 9) } else { 0 },
        past: if mask.has("past") { rng.range32(1, 40) } else { 0 },
        ..Config::default()
    }
}

fn tool(rng: &mut Rng, mask: Mask) -> Tool {
    if !mask.has("badtools") || rng.ratio(1, 2) {
        return Tool::Echo;
    }
    let tools = [Tool::Shell, Tool::Fail, Tool::Hang, Tool::Slow, Tool::Lost, Tool::Bad, Tool::TimedOut, Tool::Unknown];
    rng.pick(&tools, Tool::Echo)
}

fn class(rng: &mut Rng, mask: Mask) -> u8 {
    if !mask.has("badpolicies") {
        return rng.pick(&[0, 0, 0, 1, 2, 2, 3, 8, 11], 0);
    }
    if rng.ratio(1, 3) {
        return policies::ALWAYS;
    }
    u8::try_from(rng.range(0, u64::from(policies::CLASSES) - 1)).unwrap_or(0)
}

fn workload(seed: u64, mask: Mask, config: &Config, steps: &mut Vec<Step>) {
    let mut rng = Rng::new(seed, Stream::Load, 0);
    let mut next = 1u32;
    let end = config.heal_us;
    let pad = |rng: &mut Rng| match (mask.has("tinylog"), rng.range(0, 40)) {
        (true, _) => 3_000,
        (false, 0) => 5_000,
        (false, 1..=3) => 400,
        (false, 4..=10) => 40,
        (false, _) => 0,
    };
    let singles = if mask.has("tinylog") { 5 } else { rng.range(10, 50) };
    for _ in 0..singles {
        let call = Call { id: next, tool: tool(&mut rng, mask), class: class(&mut rng, mask), pad: pad(&mut rng) };
        next += 1;
        steps.push(Step { when: When::At(rng.range(0, end)), what: What::Call(call) });
    }
    if mask.has("bursts") {
        for _ in 0..rng.range(1, 2) {
            let at = rng.range(0, end);
            for _ in 0..rng.range(4, 14) {
                let call = Call { id: next, tool: tool(&mut rng, mask), class: class(&mut rng, mask), pad: 0 };
                next += 1;
                steps.push(Step { when: When::At(at + rng.range(0, 50)), what: What::Call(call) });
            }
        }
    }
    let clients = if mask.has("tinylog") { 6 } else { rng.range(0, 5) };
    for _ in 0..clients {
        let call = Call {
            id: next,
            tool: if rng.ratio(3, 4) { Tool::Echo } else { tool(&mut rng, mask) },
            class: if rng.ratio(3, 4) { rng.pick(&[0, 2, 11], 0) } else { class(&mut rng, mask) },
            pad: pad(&mut rng),
        };
        let n = if mask.has("tinylog") { rng.range32(10, 60) } else { rng.range32(3, 20) };
        let think_us = if mask.has("tinylog") { rng.range(0, 200) } else { rng.range(0, 20_000) };
        next += n;
        steps.push(Step { when: When::At(rng.range(0, end / 2)), what: What::Loop { call, n, think_us } });
    }
    if mask.has("loads") {
        for _ in 0..rng.range(1, 4) {
            let at = rng.range(0, end);
            let crash = (mask.has("loadcrash") && rng.ratio(1, 2)).then(|| rng.range32(1, 18));
            let what = if rng.ratio(1, 4) {
                What::Rollback { below: rng.ratio(1, 2), crash }
            } else {
                What::Load { variant: variant(&mut rng, mask), crash }
            };
            steps.push(Step { when: When::At(at), what });
            if rng.ratio(1, 4) {
                let what = What::Load { variant: variant(&mut rng, mask), crash: None };
                steps.push(Step { when: When::At(at + rng.range(0, 3_000)), what });
            }
        }
    }
    if mask.has("reader") {
        for _ in 0..rng.range(1, 5) {
            let at = rng.range(0, end);
            steps.push(Step { when: When::At(at), what: What::Read });
            if rng.ratio(1, 6) && !(mask.has("tinylog") && rng.ratio(2, 3)) {
                let batch = rng.range32(1, 1_000);
                let what = What::Drain { batch: if batch < 80 { batch % 4 + 1 } else { batch }, crash: None };
                steps.push(Step { when: When::At(at + rng.range(0, 5_000)), what });
            }
        }
    }
    if mask.has("stops") {
        let what = What::Stop { down_us: rng.range(1_000, 50_000) };
        steps.push(Step { when: When::At(rng.range(0, end)), what });
    }
}

/// Drains by command.
fn drains(seed: u64, mask: Mask, end: u64, steps: &mut Vec<Step>) {
    let mut rng = Rng::new(seed, Stream::Load, 1);
    for _ in 0..rng.range(1, 4) {
        let at = rng.range(0, end);
        let mut one = |at: u64| {
            let crash = (mask.has("draincrash") && rng.ratio(1, 2)).then(|| rng.range32(1, 60));
            let what = What::Drain { batch: rng.pick(&[1, 4, 10, 50, 512, 512], 512), crash };
            steps.push(Step { when: When::At(at), what });
            rng.range(0, 8_000)
        };
        // Now and then two at once.
        let later = one(at);
        if later < 3_000 {
            one(at + later);
        }
    }
}

/// Releases are verified, put in force, stored; floors are reset; and the clock is off by years.
fn fetches(seed: u64, mask: Mask, end: u64, steps: &mut Vec<Step>) {
    let mut rng = Rng::new(seed, Stream::Load, 2);
    let mut at = rng.range(0, end / 3);
    for _ in 0..rng.range(1, 5) {
        let crash = (mask.has("loadcrash") && rng.ratio(1, 2)).then(|| fetch_crash(&mut rng));
        let what = match rng.range(0, 11) {
            0 => What::ResetFloor { name: u8::from(rng.ratio(1, 5)), time: rng.ratio(1, 2), crash },
            1 | 2 if mask.has("verified") => What::Load { variant: variant(&mut rng, mask), crash },
            _ => What::Fetch { order: order(&mut rng, mask), crash },
        };
        steps.push(Step { when: When::At(at), what });
        // Now and then two at once.
        let apart = if rng.ratio(1, 6) { 3_000 } else { end / 2 };
        at = (at + rng.range(0, apart)).min(end);
    }
    if rng.ratio(1, 8) {
        // Up, the floor away, and down again.
        let up =
            |release| Order { release, lies: Lies::default(), on: Part::Any, goal: Goal::Activate(Wants::Anything) };
        let down = rng.range(0, 2);
        let path = [
            What::Fetch { order: up(5), crash: None },
            What::ResetFloor { name: 0, time: rng.ratio(1, 2), crash: None },
            What::Fetch { order: up(u8::try_from(down).unwrap_or(0)), crash: None },
        ];
        let mut at = rng.range(0, end / 2);
        for what in path {
            steps.push(Step { when: When::At(at), what });
            at += rng.range(60_000, 160_000);
        }
    }
    if mask.has("years") {
        let mut rng = Rng::new(seed, Stream::Faults, 3_000);
        for _ in 0..rng.range(1, 2) {
            let years = i64::try_from(rng.range(1, 40)).unwrap_or(1);
            let by = years * 31_557_600_000_000 * if rng.ratio(1, 2) { 1 } else { -1 };
            steps.push(Step { when: When::At(rng.range(0, end)), what: What::Jump { by_us: by } });
        }
    }
}

/// A verification takes 30 to 45 effects, and the change behind it some twenty.
fn fetch_crash(rng: &mut Rng) -> u32 {
    if rng.ratio(1, 3) { rng.range32(1, 70) } else { rng.range32(42, 70) }
}

fn order(rng: &mut Rng, mask: Mask) -> Order {
    let release = match rng.range(0, 9) {
        0 => FUTURE,
        1..=6 => u8::try_from(rng.range(0, u64::from(releases::GOOD) - 1)).unwrap_or(0),
        7 => rng.pick(&releases::TELLING, FUTURE),
        _ => u8::try_from(rng.range(u64::from(releases::GOOD), u64::from(COUNT) - 1)).unwrap_or(0),
    };
    let lies = match rng.range(0, 5) {
        _ if !mask.has("lies") => Lies::default(),
        0 | 1 => Lies(1 << rng.range32(0, u32::try_from(LIES.len()).unwrap_or(1) - 1)),
        2 => Lies(rng.range32(0, (1 << LIES.len()) - 1)),
        3 => Lies::of(&["stale"]),
        _ => Lies::default(),
    };
    let (_, on) = rng.pick(PARTS, ("any", Part::Any));
    let wants = if rng.ratio(1, 2) { Wants::Anything } else { rng.pick(WANTS, ("anything", Wants::Anything)).1 };
    let goal = if rng.ratio(1, 4) { Goal::Import } else { Goal::Activate(wants) };
    Order { release, lies, on: if rng.ratio(1, 2) { Part::Any } else { on }, goal }
}

/// The collector misbehaves for a while, some times.
fn collector(seed: u64, end: u64, steps: &mut Vec<Step>) {
    let mut rng = Rng::new(seed, Stream::Faults, 2_000);
    for _ in 0..rng.range(1, 3) {
        let (_, manner) = rng.pick(MANNERS, ("down", Manner::Down));
        let manner = if rng.ratio(1, 4) { Manner::Down } else { manner };
        let what = What::Collector {
            manner,
            for_us: rng.range(5_000, 400_000),
            retry_us: if rng.ratio(1, 2) { rng.range(1, 900_000) } else { 0 },
        };
        steps.push(Step { when: When::At(rng.range(0, end)), what });
    }
}

fn variant(rng: &mut Rng, mask: Mask) -> u8 {
    if mask.has("badbundles") && rng.ratio(1, 2) {
        return rng.pick(&[INCOMPATIBLE, BROKEN, OLD, UNCOMPILABLE, BARRING], BROKEN);
    }
    u8::try_from(rng.range(0, u64::from(GOOD) - 1)).unwrap_or(0)
}

fn crash_kind(rng: &mut Rng, mask: Mask) -> Option<Crash> {
    let power = match (mask.has("process"), mask.has("power")) {
        (true, true) => rng.ratio(1, 2),
        (false, true) => true,
        (true, false) => false,
        (false, false) => return None,
    };
    let how = [Survival::Mix, Survival::Mix, Survival::MixSubset, Survival::Nothing, Survival::Everything];
    Some(if power { Crash::Power(rng.pick(&how, Survival::Mix)) } else { Crash::Process })
}

fn crashes(rng: &mut Rng, mask: Mask, end: u64, steps: &mut Vec<Step>) {
    let mut life = 1u32;
    for _ in 0..rng.range(1, 3) {
        let Some(kind) = crash_kind(rng, mask) else { return };
        let down_us = rng.range(500, 40_000);
        let when = match rng.range(0, 2) {
            0 | 1 if mask.has("tinylog") => When::Seal { nth: rng.range32(1, 5), step: rng.range32(0, 6) },
            0 => When::Effect { life, n: rng.range32(0, 260) },
            _ => When::At(rng.range(0, end)),
        };
        steps.push(Step { when, what: What::Crash { kind, down_us } });
        life += 1;
        if mask.has("double")
            && let Some(kind) = crash_kind(rng, mask)
        {
            let when = When::Effect { life, n: rng.range32(0, 24) };
            steps.push(Step { when, what: What::Crash { kind, down_us: rng.range(500, 5_000) } });
            life += 1;
        }
    }
}

fn faults(seed: u64, mask: Mask, config: &Config, steps: &mut Vec<Step>) {
    let end = config.heal_us;
    // Every kind has numbers of its own: switching one off leaves the others as they are.
    for (index, kind) in (0u64..).zip(KINDS) {
        if !mask.has(kind) {
            continue;
        }
        let mut rng = Rng::new(seed, Stream::Faults, index);
        let at = When::At(rng.range(0, end));
        let mut push = |what| steps.push(Step { when: at, what });
        match *kind {
            "nospace" => {
                push(What::Full { for_us: rng.range(1_000, 80_000), syncs: rng.ratio(1, 4), renames: rng.ratio(1, 3) })
            }
            "opfail" => {
                const OPS: [OpKind; 11] = [
                    OpKind::List,
                    OpKind::Read,
                    OpKind::Read,
                    OpKind::Put,
                    OpKind::Append,
                    OpKind::Publish,
                    OpKind::Truncate,
                    OpKind::Rename,
                    OpKind::Remove,
                    OpKind::SyncDir,
                    OpKind::Append,
                ];
                push(What::FailOp {
                    op: rng.pick(&OPS, OpKind::Append),
                    file: FileKind::Any,
                    nospace: rng.ratio(1, 3),
                    partial: rng.ratio(1, 2),
                });
            }
            "syncfail" => {
                let files = [FileKind::Live, FileKind::Live, FileKind::SafeSeq, FileKind::Temp, FileKind::Any];
                let file = rng.pick(&files, FileKind::Any);
                push(What::FailOp { op: OpKind::Sync, file, nospace: rng.ratio(1, 4), partial: false });
            }
            "stall" => push(What::Stall { for_us: rng.range(5_000, 100_000), add_us: rng.range(1_000, 60_000) }),
            "rot" => {
                const FILES: [FileKind; 10] = [
                    FileKind::Live,
                    FileKind::Live,
                    FileKind::Live,
                    FileKind::Sealed,
                    FileKind::SafeSeq,
                    FileKind::Base,
                    FileKind::Activation,
                    FileKind::Bundle,
                    FileKind::Bundle,
                    FileKind::Positions,
                ];
                let policy = [FileKind::Bundle, FileKind::Bundle, FileKind::Activation];
                let file = if mask.has("releases") && rng.ratio(1, 2) {
                    rng.pick(&[FileKind::Lock, FileKind::Lock, FileKind::Bundle, FileKind::Activation], FileKind::Lock)
                } else if mask.has("loads") && rng.ratio(1, 2) {
                    rng.pick(&policy, FileKind::Bundle)
                } else {
                    rng.pick(&FILES, FileKind::Live)
                };
                push(What::Rot { file, place: rng.next() >> 1, evicted: rng.ratio(1, 2) });
                if rng.ratio(1, 3) {
                    push(What::Rot { file, place: rng.next() >> 1, evicted: true });
                }
            }
            "misdirect" => push(What::Misdirect),
            "cutlive" => push(What::CutLive { permille: rng.range32(0, 999) }),
            "clock" => {
                push(What::Drift { ppm: i32::try_from(rng.range(0, 400_000)).unwrap_or(0) - 200_000 });
                let by = i64::try_from(rng.range(0, 200_000_000_000)).unwrap_or(0) - 100_000_000_000;
                push(What::Jump { by_us: by });
            }
            "pause" => push(What::Pause { for_us: rng.range(1_000, 200_000) }),
            _ => {}
        }
    }
    let mut rng = Rng::new(seed, Stream::Faults, 1_000);
    if mask.has("process") || mask.has("power") {
        crashes(&mut rng, mask, end, steps);
    }
    if mask.has("drains") {
        drains(seed, mask, end, steps);
    }
    if mask.has("releases") {
        fetches(seed, mask, end, steps);
    }
    if mask.has("collector") {
        collector(seed, end, steps);
    }
    if mask.has("precheck") {
        prechecks::steps(seed, end, steps);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_vary_every_kind_is_on_and_off_and_pairs_are_independent() {
        let masks: Vec<Mask> = (0..2_000).map(mask).collect();
        for kind in KINDS {
            let on = masks.iter().filter(|m| m.has(kind)).count();
            assert!((20..1_980).contains(&on), "{kind} is on in {on} of 2000 runs");
        }
        let mut distinct: Vec<u64> = masks.iter().map(|m| m.0).collect();
        distinct.sort_unstable();
        distinct.dedup();
        assert!(distinct.len() > 1_500, "{} distinct masks", distinct.len());
        let both = masks.iter().filter(|m| m.has("power") && m.has("rot")).count();
        assert!(both > 50, "{both}");
    }

    #[test]
    fn plans_read_back_from_their_text() {
        for seed in 0..300 {
            let plan = plan(seed);
            assert_eq!(Plan::parse(&plan.to_string()).as_ref(), Ok(&plan), "seed {seed}");
        }
    }

    #[test]
    fn a_plan_that_is_wrong_says_where() {
        for (text, word) in [
            ("", "no plan"),
            ("sim-plan 9\n", "version"),
            ("sim-plan 1\nat=1 fly\n", "line 2"),
            ("sim-plan 1\nat=x read\n", "line 2"),
            ("sim-plan 1\nmask unknown\n", "no kind"),
            ("sim-plan 1\nat=1 crash kind=odd down=1\n", "kind=odd"),
        ] {
            let why = Plan::parse(text).expect_err(text);
            assert!(why.contains(word), "{text:?}: {why}");
        }
    }
}
