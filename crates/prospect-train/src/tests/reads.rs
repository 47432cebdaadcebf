//! How often a step waits for its device, and what its ranks agree on with the last of those reads.

use prospect_core::{Mode, Shard, ShardKind, Step, StepReport};

use super::sharded::{SHARDED, mode_config, uneven};
use super::support::{ThreadExchange, device, loss, shard, step, world};
use crate::readback::NUM_FETCHES;
use crate::{ShardProblem, TrainError, Trainer};

const WORLD: usize = 3;

/// When a rank has the shard of the next step.
type Early = fn(rank: usize, step: u64) -> bool;

/// Takes a step that counts. Returns its report, and how often the device was read meanwhile.
fn counted(
    trainer: &mut Trainer,
    shard: &Shard,
    exchange: &mut ThreadExchange,
) -> (StepReport, u64) {
    let before = NUM_FETCHES.get();
    let report = step(trainer, shard, exchange).unwrap();
    (report, NUM_FETCHES.get() - before)
}

/// Losses and reads of the steps from the second on: the first may load the reference.
fn run(mode: Mode, early: Early) -> Vec<(f64, u64)> {
    let config = mode_config(mode, "smollm2");
    let runs = world(WORLD, &config, |rank, trainer, exchange| {
        let make = |number| uneven(number, (rank, WORLD));
        let steps = (1..=5).map(|number| {
            exchange.next = early(rank, number).then(|| make(number + 1));
            counted(trainer, &make(number), exchange)
        });
        let steps: Vec<_> = steps.collect();
        trainer.close().unwrap();
        steps
    });
    (1..5)
        .map(|idx| {
            let reports: Vec<&StepReport> = runs.iter().map(|steps| &steps[idx].0).collect();
            // A rank without sequences reads less.
            let reads = runs.iter().map(|steps| steps[idx].1).max().unwrap();
            (loss(&reports), reads)
        })
        .collect()
}

/// Checks the reads of the steps from the second to the fifth. Their losses do not depend on what is
/// here early.
#[track_caller]
fn check(mode: Mode, early: Early, expected: [u64; 4]) {
    let found = run(mode, early);
    assert_eq!(found.iter().map(|step| step.1).collect::<Vec<_>>(), expected, "{mode:?}");
    let late = run(mode, |_, _| false);
    // A GPU's attention does not add in the same order each time.
    let bound = if device().is_cuda() { 1e-5 } else { 0.0 };
    let is_near = |(found, late): (&(f64, u64), &(f64, u64))| (found.0 - late.0).abs() <= bound;
    assert!(found.iter().zip(&late).all(is_near), "{found:?}, {late:?}");
}

#[test]
fn a_step_is_read_from_the_device_twice() {
    check(Mode::Replicated, |_, _| false, [2; 4]);
    check(Mode::ShardedOptimizer, |_, _| false, [2; 4]);
    check(Mode::FullySharded, |_, _| true, [2; 4]);
}

#[test]
fn ranks_agree_on_passes_at_the_step_where_a_shard_was_late() {
    check(Mode::FullySharded, |_, _| false, [3; 4]);
    // The last rank has the third step's too late, and the first one the fifth's.
    let early: Early = |rank, step| (rank, step) != (WORLD - 1, 2) && (rank, step) != (0, 4);
    check(Mode::FullySharded, early, [2, 3, 2, 3]);
}

#[test]
fn passes_of_the_next_step_outlive_an_evaluation_and_are_given_up_with_the_step() {
    world(2, &mode_config(Mode::FullySharded, "smollm2"), |rank, trainer, exchange| {
        let make = |number| shard(number, 32, (rank, 2));
        exchange.next = Some(make(2));
        step(trainer, &make(1), exchange).unwrap();
        let eval = Shard { kind: ShardKind::Eval, step: Step(1), ..make(4) };
        trainer.evaluate(&eval, exchange).unwrap();
        assert_eq!(trainer.next_passes.unwrap().0, Step(2));
        // A shard that is refused has no passes, and neither has one of another step.
        let mut bad = make(3);
        bad.parts[0].part = 7;
        exchange.next = if rank == 0 { Some(bad.clone()) } else { Some(make(3)) };
        assert_eq!(counted(trainer, &make(2), exchange).1, 2);
        assert_eq!(trainer.next_passes, None);
        exchange.next = Some(make(5));
        assert_eq!(counted(trainer, &make(3), exchange).1, 3);
        assert_eq!(trainer.next_passes, None);

        exchange.next = Some(make(5));
        step(trainer, &make(4), exchange).unwrap();
        assert!(trainer.next_passes.is_some());
        let error = trainer.step(&Shard { step: Step(5), ..bad }, exchange).unwrap_err();
        let TrainError::Shard { problem, .. } = error else { panic!("{error}") };
        assert!(matches!(problem, ShardProblem::WrongParts { .. }), "{problem}");
        assert_eq!(trainer.next_passes, None);
        assert_eq!(counted(trainer, &make(5), exchange).1, 3);
    });
}

#[test]
fn a_checkpoint_that_one_shard_orders_is_every_ranks() {
    let ordered = |mode| {
        world(2, &mode_config(mode, "smollm2"), |rank, trainer, exchange| {
            let mut saves = Vec::new();
            for number in 1..=3 {
                let checkpoint_after = number == 2 && rank == 1;
                let shard = Shard { checkpoint_after, ..shard(number, 32, (rank, 2)) };
                trainer.step(&shard, exchange).unwrap();
                saves.push(trainer.saves_pending());
                trainer.apply(Step(number)).unwrap();
                assert!(!trainer.saves_pending());
            }
            saves
        })
    };
    for mode in SHARDED {
        assert_eq!(ordered(mode), vec![vec![false, true, false]; 2]);
    }
    assert_eq!(ordered(Mode::Replicated), [[false; 3], [false, true, false]]);
}
