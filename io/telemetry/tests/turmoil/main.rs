//! The drain with the production exporter against the production sink, over turmoil's network and in simulated time.
//!
//! Each scenario is run twice with each of its seeds, and both runs must be the same to the millisecond. After every
//! write of the cursors it is checked that none is ahead of what the collector took. Packets are not lost at random,
//! because the simulated TCP does not send them again. `TURMOIL_SEEDS=40` runs the first 40 seeds of each scenario.

mod hosts;
mod log;
mod rig;

use std::time::Duration;

use io_telemetry::sink::Behave;
use machines::drain::batch::Class;
use machines::drain::{Output, Until, Why};
use machines::net::{Fault, Got};
use machines::wal::frame::Kind;

use rig::{BATCH, Plan, Rig, What, mixed, seq_of};

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Runs a scenario twice with each seed: two seeds, or the first so many when `TURMOIL_SEEDS` says how many.
fn twice(scenario: impl Fn(u64) -> String) {
    let hunted =
        std::env::var("TURMOIL_SEEDS").ok().map(|count| (0..count.parse().expect("a number of seeds")).collect());
    for seed in hunted.unwrap_or_else(|| vec![1, 26_014_341]) {
        println!("seed {seed}");
        let first = scenario(seed);
        assert!(!first.is_empty());
        assert_eq!(first, scenario(seed), "two runs of seed {seed} differ");
    }
}

fn complete(rig: &mut Rig) {
    let last = rig.until_end();
    assert!(matches!(last, Output::Complete { .. }), "{last:?}\n{}", rig.trace());
}

#[test]
fn a_collector_that_is_there_gets_everything_once() {
    twice(|seed| {
        let mut rig = Plan::new(Until::Empty).start(seed);
        complete(&mut rig);
        // 8 errors, 74 decisions and actions, 14 lifecycle events: no batch holds two classes.
        let classes: Vec<_> = rig.sent().iter().map(|(class, _)| *class).collect();
        let mut want = vec![Class::Error];
        want.extend([Class::Decision; 10]);
        want.extend([Class::Lifecycle; 2]);
        // After eight batches of higher classes the lowest has its turn.
        assert_eq!(classes.len(), want.len(), "{classes:?}");
        assert_eq!(classes.iter().position(|class| *class == Class::Lifecycle), Some(8), "{classes:?}");
        assert_eq!(rig.troubles(), [""; 0]);
        rig.delivered(0)
    });
}

#[test]
fn a_drain_that_goes_on_delivers_what_is_written_later() {
    twice(|seed| {
        let mut rig = Plan { kinds: mixed(24), ..Plan::new(Until::Stopped) }.start(seed);
        for kinds in [mixed(12), vec![Kind::Error], mixed(30)] {
            rig.pass(secs(4));
            assert_eq!(rig.cursors(), [rig.last(); 3], "{}", rig.trace());
            rig.write(&kinds);
        }
        rig.until_empty_and_stop();
        assert_eq!(rig.troubles(), [""; 0]);
        rig.delivered(0)
    });
}

#[test]
fn n01_a_collector_that_starts_late_gets_the_errors_first() {
    twice(|seed| {
        let mut rig = Plan { up: false, ..Plan::new(Until::Stopped) }.start(seed);
        rig.pass(secs(6));
        let troubles = rig.troubles();
        assert!((3..=6).contains(&troubles.len()), "{}", rig.trace());
        assert!(troubles.iter().all(|words| words == "connection refused"), "{troubles:?}");
        // Written during the outage, behind a decision that was tried and did not go.
        rig.write(&[Kind::Decision, Kind::Error]);
        rig.come_up();
        rig.until_taken(1);
        assert_eq!(rig.class_behind(0), Class::Error);
        rig.until_empty_and_stop();
        rig.delivered(0)
    });
}

#[test]
fn n01_a_command_without_a_collector_fails_at_once_and_the_next_one_sends_everything() {
    twice(|seed| {
        let mut rig = Plan { up: false, ..Plan::new(Until::Empty) }.start(seed);
        let failure = rig.gave_up();
        assert_eq!((failure.why, &*failure.message), (Why::Unreachable, "could not reach endpoint"));
        assert!(rig.elapsed() < secs(1), "{}", rig.trace());
        rig.come_up();
        rig.bounce("node");
        complete(&mut rig);
        rig.delivered(0)
    });
}

#[test]
fn n12_a_partition_during_a_drain_costs_at_most_one_batch_twice() {
    twice(|seed| {
        let mut rig = Plan::new(Until::Stopped).start(seed);
        rig.until_taken(3);
        rig.until_sent();
        let lost = rig.sent().pop();
        rig.partition();
        assert_eq!(rig.until_fault(), Got::Failed(Fault::TimedOut));
        let before = rig.taken().len();
        rig.write(&[Kind::Decision, Kind::Error]);
        rig.pass(secs(3));
        rig.repair();
        rig.until_taken(1);
        // The new error overtakes the batch that was tried.
        assert_eq!(rig.class_behind(before), Class::Error, "{}", rig.trace());
        rig.until_empty_and_stop();
        // It was lost on its way there, and came with the records that it had.
        assert_eq!(rig.sent().iter().filter(|sent| Some(*sent) == lost.as_ref()).count(), 2, "{}", rig.trace());
        rig.delivered(0)
    });
}

#[test]
fn n03_answers_that_are_lost_on_a_one_way_partition_cost_one_batch_twice() {
    twice(|seed| {
        let mut rig = Plan::new(Until::Stopped).start(seed);
        rig.until_taken(2);
        rig.until_stored();
        let (class, lost) = rig.sent().pop().unwrap();
        rig.partition_oneway("collector", "node");
        assert_eq!(rig.until_fault(), Got::Failed(Fault::TimedOut));
        rig.pass(secs(12));
        let stored = rig.taken().len();
        rig.repair();
        rig.until_empty_and_stop();
        let again: Vec<_> = rig.taken()[stored..][..lost.len()].iter().map(seq_of).collect();
        assert_eq!(again, lost, "{}", rig.trace());
        assert!(rig.sent().iter().filter(|sent| **sent == (class, lost.clone())).count() >= 2);
        assert_eq!(rig.repeated(), lost.len());
        rig.delivered(BATCH)
    });
}

#[test]
fn n12_requests_that_are_lost_on_a_one_way_partition_come_once() {
    twice(|seed| {
        let mut rig = Plan::new(Until::Stopped).start(seed);
        rig.until_taken(2);
        rig.until_sent();
        rig.partition_oneway("node", "collector");
        let stored = rig.stored();
        assert_eq!(rig.until_fault(), Got::Failed(Fault::TimedOut));
        rig.pass(secs(12));
        assert_eq!(rig.stored(), stored);
        rig.repair();
        rig.until_empty_and_stop();
        rig.delivered(0)
    });
}

#[test]
fn n02_answers_that_are_held_past_the_time_make_the_same_batch_go_again() {
    twice(|seed| {
        let mut rig = Plan::new(Until::Stopped).start(seed);
        rig.until_taken(3);
        rig.until_stored();
        rig.hold();
        let held = rig.sent().pop().unwrap();
        assert_eq!(rig.until_fault(), Got::Failed(Fault::TimedOut));
        rig.until_sent();
        assert_eq!(rig.sent().pop().unwrap(), held, "the same records again");
        assert_eq!(rig.until_fault(), Got::Failed(Fault::TimedOut));
        rig.until_sent();
        // Everything that was held arrives at once: the answer to the first try, for which nobody waits any more, too.
        rig.pass(secs(1));
        rig.release();
        rig.until_empty_and_stop();
        assert_eq!(rig.sent().iter().filter(|sent| **sent == held).count(), 3);
        assert_eq!(rig.repeated(), held.1.len(), "{}", rig.trace());
        rig.delivered(BATCH)
    });
}

#[test]
fn n12_a_short_hold_costs_nothing() {
    twice(|seed| {
        let mut rig = Plan::new(Until::Empty).start(seed);
        for _ in 0..3 {
            rig.until_sent();
            rig.hold();
            rig.pass(secs(8));
            rig.release();
            rig.until_taken(1);
        }
        complete(&mut rig);
        assert_eq!(rig.troubles(), [""; 0]);
        rig.delivered(0)
    });
}

#[test]
fn n12_a_collector_that_crashes_between_requests_loses_and_repeats_nothing() {
    twice(|seed| {
        let mut rig = Plan::new(Until::Stopped).start(seed);
        for (down, refuses) in [(secs(3), false), (secs(25), false), (secs(2), true)] {
            rig.until_taken(2);
            // The cursor is being written; the next request was not sent.
            rig.crash("collector");
            if refuses {
                rig.stay_down();
                rig.bounce("collector");
            }
            rig.pass(down);
            if refuses {
                rig.come_up();
            } else {
                rig.bounce("collector");
            }
        }
        rig.until_empty_and_stop();
        rig.delivered(0)
    });
}

#[test]
fn n03_a_collector_that_restarts_under_a_request_gets_the_batch_again() {
    twice(|seed| {
        let mut rig = Plan::new(Until::Empty).start(seed);
        rig.until_taken(2);
        // Before the request arrives: the new process does not know the connection.
        rig.until_sent();
        rig.bounce("collector");
        assert!(matches!(rig.until_fault(), Got::Failed(Fault::Broken(_))), "{}", rig.trace());
        rig.until_taken(2);
        assert_eq!(rig.repeated(), 0);
        // After it was stored: its answer is lost with the power.
        rig.until_stored();
        let (_, stored) = rig.sent().pop().unwrap();
        rig.power_cycle_collector();
        assert_eq!(rig.until_fault(), Got::Failed(Fault::TimedOut));
        complete(&mut rig);
        assert_eq!(rig.repeated(), stored.len());
        rig.delivered(BATCH)
    });
}

#[test]
fn n12_a_connection_that_is_open_at_one_end_only_is_given_up() {
    twice(|seed| {
        let mut rig = Plan::new(Until::Empty).start(seed);
        for _ in 0..2 {
            rig.until_taken(2);
            // Between two requests: the node's end stays open, and the next request goes to nobody.
            rig.power_cycle_collector();
            assert!(matches!(rig.until_fault(), Got::Failed(Fault::Broken(_))), "{}", rig.trace());
        }
        complete(&mut rig);
        assert_eq!(rig.troubles().len(), 2);
        rig.delivered(0)
    });
}

#[test]
fn n11_a_node_that_crashes_repeats_at_most_one_batch() {
    twice(|seed| {
        let mut rig = Plan { kinds: mixed(160), ..Plan::new(Until::Empty) }.start(seed);
        let mut repeated = 0;
        type At = fn(&mut Rig);
        // The crash falls: when the request is on its way, which the collector may then take or drop; when the answer
        // is on its way; when the answer was read and its cursor not written; when the cursor was written and the next
        // request leaves.
        let moments: [(At, std::ops::RangeInclusive<usize>); 4] = [
            (Rig::until_sent, 0..=BATCH),
            (Rig::until_stored, 1..=BATCH),
            (|rig| rig.until_taken(1), 1..=BATCH),
            (Rig::until_cursors_move, 0..=BATCH),
        ];
        for (moment, expected) in moments {
            rig.until_taken(2);
            moment(&mut rig);
            rig.crash("node");
            rig.pass(secs(2));
            rig.bounce("node");
            rig.until_taken(3);
            let again = rig.repeated() - repeated;
            assert!(expected.contains(&again), "{again} again\n{}", rig.trace());
            repeated += again;
        }
        complete(&mut rig);
        rig.delivered(4 * BATCH)
    });
}

#[test]
fn n05_a_collector_that_is_busy_for_a_while_is_waited_for() {
    twice(|seed| {
        let mut rig = Plan { behave: Behave::Unavailable, ..Plan::new(Until::Empty) }.start(seed);
        rig.pass(secs(12));
        assert!(rig.taken().is_empty());
        let troubles = rig.troubles();
        assert!((3..=7).contains(&troubles.len()), "{}", rig.trace());
        assert!(troubles.iter().all(|words| words == "the endpoint answered 503: not now"), "{troubles:?}");
        rig.behave(Behave::Accept);
        complete(&mut rig);
        assert_eq!(rig.sent()[0].0, Class::Error);
        rig.delivered(0)
    });
}

#[test]
fn n05_a_command_gives_up_on_a_collector_that_stays_busy() {
    twice(|seed| {
        let mut rig = Plan { behave: Behave::TooMany, ..Plan::new(Until::Empty) }.start(seed);
        let failure = rig.gave_up();
        assert_eq!(failure.why, Why::Refused);
        assert!(failure.message.starts_with("the endpoint answered 429: slow down (tried for "), "{}", failure.message);
        assert!(rig.elapsed() <= secs(30), "{}", rig.trace());
        rig.behave(Behave::Accept);
        rig.bounce("node");
        complete(&mut rig);
        rig.delivered(0)
    });
}

#[test]
fn n02_a_collector_that_hangs_is_tried_again_until_it_answers() {
    twice(|seed| {
        let mut rig = Plan { behave: Behave::Hang, ..Plan::new(Until::Stopped) }.start(seed);
        // More often than the collector holds bodies at once.
        for _ in 0..6 {
            assert_eq!(rig.until_fault(), Got::Failed(Fault::TimedOut));
        }
        assert!(rig.taken().is_empty());
        rig.write(&[Kind::Lifecycle, Kind::Error]);
        rig.behave(Behave::Accept);
        rig.until_empty_and_stop();
        assert_eq!(rig.class_behind(0), Class::Error);
        rig.delivered(0)
    });
}

#[test]
fn n02_a_drain_that_is_stopped_while_the_collector_hangs_ends_at_once() {
    twice(|seed| {
        let mut rig = Plan::new(Until::Stopped).start(seed);
        rig.until_taken(3);
        rig.behave(Behave::Hang);
        rig.until_sent();
        rig.pass(secs(2));
        let asked = rig.elapsed();
        rig.stop();
        assert_eq!(rig.until_end(), Output::Stopped);
        assert!(rig.elapsed() - asked < ms(50), "{}", rig.trace());
        rig.behave(Behave::Accept);
        rig.bounce("node");
        rig.until_empty_and_stop();
        rig.delivered(0)
    });
}

#[test]
fn n01_a_command_behind_a_partition_gives_up_and_moves_nothing() {
    twice(|seed| {
        let mut rig = Plan::new(Until::Empty).start(seed);
        rig.partition();
        let failure = rig.gave_up();
        assert_eq!((failure.why, failure.why.exit_code()), (Why::Unreachable, 3));
        assert!(failure.message.starts_with("no answer from the endpoint for "), "{}", failure.message);
        // No try begins after its time; the one that is under way may take as long as an answer may.
        assert!((secs(20)..=secs(40)).contains(&rig.elapsed()), "{}", rig.trace());
        assert!(rig.troubles().iter().all(|words| words == "no answer in time"), "{}", rig.trace());
        rig.repair();
        rig.bounce("node");
        complete(&mut rig);
        rig.delivered(0)
    });
}

#[test]
fn a_slow_link_takes_two_trips_for_a_batch_and_no_more() {
    twice(|seed| {
        let plan = Plan { batch_records: 4, kinds: mixed(160), ..Plan::new(Until::Empty) };
        let mut rig = plan.start(seed);
        rig.slow(ms(200));
        complete(&mut rig);
        let batches = u32::try_from(rig.count(What::is_taken)).unwrap();
        assert!(batches >= 40, "{batches}");
        // One trip for the connection, which is kept.
        assert!(rig.elapsed() < ms(200) + batches * ms(400 + 15), "{:?} for {batches}\n{}", rig.elapsed(), rig.trace());
        assert_eq!(rig.troubles(), [""; 0]);
        rig.delivered(0)
    });
}

#[test]
fn n03_batches_that_are_worked_on_by_other_threads_come_again_whole() {
    twice(|seed| {
        let plan = Plan { batch_records: 256, kinds: mixed(800), record_len: 900, ..Plan::new(Until::Empty) };
        let mut rig = plan.start(seed);
        rig.until_taken(1);
        rig.until_stored();
        rig.power_cycle_collector();
        complete(&mut rig);
        assert!(rig.repeated() > 64, "{}", rig.trace());
        rig.delivered(256)
    });
}
