//! Whole runs with simulated workers, a simulated network and disk, and faults from a seed. The
//! machine is the one of production; what is simulated is everything around it. Held at every
//! moment: each step is put on record once an attempt and in order, by the last generation, from
//! the right weights and with every row once; whoever is ready has the committed weights; a
//! checkpoint that was said to be durable is never lost. When nothing goes wrong any more, the
//! run ends with all steps on record and the model that they make.

mod bodies;
mod chance;
mod coordinator;
mod disk;
mod faults;
mod hearing;
mod network;
mod peers;
mod process;
mod work;
mod world;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use chance::Chance;
use faults::Plan;
use proptest::prelude::*;
use world::World;

/// Histories that are simulated where the environment does not say how many.
const SEEDS: u64 = 2000;

fn number(key: &str) -> Option<u64> {
    std::env::var(key).ok()?.parse().ok()
}

/// Simulates one history and says what happened in it.
fn check(seed: u64, draw: fn(&mut Chance) -> Plan, log: bool) -> BTreeSet<&'static str> {
    let mut world = World::new(seed, draw, log);
    match catch_unwind(AssertUnwindSafe(|| world.run())) {
        Ok(()) => world.seen,
        Err(cause) => {
            let text = cause.downcast_ref::<&str>().map(ToString::to_string);
            let text = text.or_else(|| cause.downcast_ref::<String>().cloned()).unwrap_or_default();
            panic!(
                "seed {} after {:?}: {text}; PROSPECT_SIM_SEED={seed} shows all",
                world.seed, world.now
            )
        }
    }
}

/// Simulates many histories, which together hold these kinds of things. With PROSPECT_SIM_SEED
/// set, one of them is shown instead; PROSPECT_SIM_SEEDS says how many.
fn check_all(draw: fn(&mut Chance) -> Plan, all: &[&str]) {
    if let Some(seed) = number("PROSPECT_SIM_SEED") {
        check(seed, draw, true);
        return;
    }
    let mut seen = BTreeSet::new();
    for seed in 0..number("PROSPECT_SIM_SEEDS").unwrap_or(SEEDS) {
        seen.extend(check(seed, draw, false));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), all, "what the histories hold");
}

#[test]
fn every_history_ends_with_all_steps_and_nothing_lost() {
    let all = [
        "adopting",
        "checkpoint failed",
        "crash between actions",
        "failed",
        "final rejected",
        "from a checkpoint",
        "from a peer",
        "grown",
        "initial",
        "kept",
        "regroup",
        "rolled back",
        "saved again",
        "shrunk",
        "stopped",
    ];
    check_all(Plan::draw, &all);
}

#[test]
fn every_history_of_a_sharded_world_begins_each_generation_from_a_checkpoint() {
    let all = [
        "adopting",
        "checkpoint failed",
        "crash between actions",
        "failed",
        "final rejected",
        "from a checkpoint",
        "grown",
        "initial",
        "regroup",
        "rolled back",
        "saved again",
        "shrunk",
        "stopped",
    ];
    check_all(Plan::draw_sharded, &all);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn messages_that_come_twice_late_or_again_have_one_effect(seed: u64) {
        check(seed, Plan::draw_stale, false);
    }
}
