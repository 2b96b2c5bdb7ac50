//! From a seed to a story: each switches another set of troubles on.

use super::material::LAST;
use super::plan::{Check, Config, Cut, Edit, End, Fault, Plan, Step, What};
use super::tree::Survival;
use crate::rng::{Rng, Stream};

/// What may happen to the files between prechecks, by kind of trouble.
const TROUBLES: [&[What]; 6] = [
    &[
        What::Release,
        What::ReleaseUnsigned,
        What::ReleaseForged,
        What::ReleaseUnderOldSignature,
        What::SignatureOnly,
        What::SignatureShort,
        What::ManifestGone,
    ],
    &[What::Key, What::KeyGone, What::KeyOther, What::KeyShort],
    &[
        What::SourceOther,
        What::SourceGone,
        What::SourceLink,
        What::SourceRot,
        What::SourcesRight,
        What::InTheWay,
        What::FolderLink,
        What::DestinationsGone,
    ],
    &[
        What::PrintZero,
        What::PrintGone,
        What::PrintTorn,
        What::PrintBack,
        What::PrintAhead,
        What::CurrentGone,
        What::CurrentTorn,
        What::CurrentOther,
        What::PreviousGone,
        What::PreviousOther,
        What::ChainCut,
        What::ChainGone,
        What::ChainRot,
        What::ChainTorn,
        What::RecordsGone,
        What::RecordsRight,
        What::Ran,
    ],
    &[
        What::Cert,
        What::CertMixed,
        What::CertExposed,
        What::CertNoCa,
        What::CertGone,
        What::Next,
        What::NextMixed,
        What::NextHalf,
        What::IdentityOdd,
        What::IdentityRight,
    ],
    &[
        What::Floor,
        What::ClockBehind,
        What::ClockAhead,
        What::ClockLost,
        What::ClockRight,
        What::RootWrong,
        What::RootRight,
        What::PathLink,
        What::PathRight,
        What::HostHidden,
        What::HostSeen,
        What::HostFlips,
    ],
];

/// What may happen under a precheck's hands. Nobody changes the records there: the lock is for those who do.
const MEDDLING: [What; 19] = [
    What::Release,
    What::ReleaseForged,
    What::ReleaseUnderOldSignature,
    What::ReleaseUnderOldSignature,
    What::ReleaseUnderOldSignature,
    What::SignatureOnly,
    What::SignatureShort,
    What::ManifestGone,
    What::KeyGone,
    What::KeyOther,
    What::SourceOther,
    What::SourceOther,
    What::SourceOther,
    What::SourceGone,
    What::SourceLink,
    What::InTheWay,
    What::FolderLink,
    What::DestinationsGone,
    What::HostFlips,
];

/// Which kinds of trouble a story has.
struct Mask {
    troubles: [bool; 6],
    cuts: bool,
    power: bool,
    faults: bool,
    meddling: bool,
    beside: bool,
    rotations: bool,
}

/// The story of a seed.
#[must_use]
pub fn plan(seed: u64) -> Plan {
    let mut rng = Rng::new(seed, Stream::Config, 1 << 50);
    let config = Config {
        relay: rng.ratio(1, 4),
        tls: rng.ratio(5, 6),
        pinned: rng.ratio(1, 6),
        named: rng.ratio(3, 4),
        allow: rng.ratio(2, 3),
    };
    let mut mask = Mask {
        troubles: [false; 6],
        cuts: rng.ratio(2, 3),
        power: rng.ratio(2, 3),
        faults: rng.ratio(1, 3),
        meddling: rng.ratio(1, 3),
        beside: rng.ratio(1, 5),
        rotations: rng.ratio(1, 3),
    };
    mask.troubles.iter_mut().for_each(|on| *on = rng.ratio(1, 3));
    let mut rng = Rng::new(seed, Stream::Load, 1 << 50);
    let mut steps = Vec::new();
    let edit = |what, n| Step::Edit(Edit { what, n });
    let mut host = 0u8;
    // Most stories are about a node that was started once.
    if rng.ratio(5, 6) {
        steps.push(Step::Precheck(Check::default()));
    }
    for _ in 0..rng.range(2, 9) {
        if rng.ratio(2, 3) {
            host = u8::try_from(rng.range(0, 5)).unwrap_or(0);
        }
        // A newer release most of the time, so that the story goes on.
        if rng.ratio(1, 2) {
            let n = rng.pick(&[0, 1, 1, 2, 3, 5, 12, 13, 18], 1);
            steps.extend([edit(What::Release, n), edit(What::SourcesRight, 0)]);
        }
        for (kind, _) in TROUBLES.iter().zip(mask.troubles).filter(|(_, on)| *on) {
            if rng.ratio(1, 2) {
                let what = rng.pick(kind, What::SourcesRight);
                steps.push(edit(what, number(&mut rng, what)));
            }
        }
        if mask.rotations && rng.ratio(1, 2) {
            steps.push(edit(What::Next, number(&mut rng, What::Next)));
        }
        match rng.range(0, 3) {
            0 if mask.power => steps.push(Step::Power(host, survival(&mut rng))),
            0..=2 => steps.push(Step::Boot(host)),
            _ => steps.push(edit(What::PrintZero, 0)),
        }
        for _ in 0..rng.range(1, 4) {
            steps.push(Step::Precheck(check(&mut rng, &mask)));
        }
    }
    Plan { seed, config, steps }
}

#[allow(clippy::wildcard_enum_match_arm)] // for the others any number does
fn number(rng: &mut Rng, what: What) -> u8 {
    let n = match what {
        What::Release
        | What::ReleaseUnsigned
        | What::ReleaseForged
        | What::ReleaseUnderOldSignature
        | What::SignatureOnly => rng.range(0, u64::from(LAST) - 1),
        What::Cert | What::Next => rng.pick(&[6, 7, 8, 30, 90, 250], 30),
        What::Floor => rng.pick(&[1, 20, 60, 240], 20),
        What::ClockBehind => rng.pick(&[1, 8, 30, 200], 8),
        What::ClockAhead => rng.pick(&[1, 30, 200], 1),
        _ => rng.range(0, 255),
    };
    u8::try_from(n).unwrap_or(0)
}

fn survival(rng: &mut Rng) -> Survival {
    match rng.range(0, 5) {
        0 => Survival::All,
        1 => Survival::None,
        2 => Survival::Bits(rng.next() >> 40),
        _ => Survival::Mix(rng.next() >> 32),
    }
}

fn check(rng: &mut Rng, mask: &Mask) -> Check {
    let mut check = Check { rotate: mask.rotations && rng.ratio(1, 2), ..Check::default() };
    let at = |rng: &mut Rng| {
        let last = if rng.ratio(1, 2) { 60 } else { 110 };
        rng.range32(0, last)
    };
    if mask.cuts && rng.ratio(1, 3) {
        let cut = Cut { at: at(rng), half: rng.ratio(1, 3) };
        check.end = if mask.power && rng.ratio(2, 3) { End::Power(cut, survival(rng)) } else { End::Kill(cut) };
    }
    // One thing at a time: two would excuse each other.
    match rng.range(0, 5) {
        0 | 1 if mask.faults => {
            check.fault = if rng.ratio(1, 3) { Fault::Full(at(rng)) } else { Fault::Fails(at(rng)) };
        }
        2 | 3 if mask.meddling => {
            let what = rng.pick(&MEDDLING, What::SourceOther);
            let early = rng.ratio(1, 2);
            let at = rng.range32(if early { 11 } else { 0 }, if early { 40 } else { 80 });
            check.meddle = Some((at, Edit { what, n: number(rng, what) }));
        }
        4 if mask.beside => check.beside = Some(at(rng)),
        _ => {}
    }
    check
}
