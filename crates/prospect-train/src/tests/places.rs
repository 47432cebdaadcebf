//! A disk that is full, or anything else, at every place of a step at which tests make something
//! happen. All in a process of its own, since what happens where is decided for a whole process.

use std::env;
use std::path::Path;
use std::process::Command;

use prospect_core::{Restore, Shard, ShardKind, Step, StepPhase};

use super::support::{config, device, group, ranks, shard, train, with_store};
use crate::{FailureKind, ReferencePointExchange as _, TrainError, Trainer};

/// Says that this process is the one in which things happen.
const CHILD: &str = "PROSPECT_TEST_PLACES";

/// Places of a step, in order, and whether the sums of pairs are on their way by then.
const STEP_PLACES: [(&str, bool); 4] = [
    ("worker::scoring", false),
    ("worker::forward", true),
    ("worker::backward", false),
    ("worker::all_reduce", false),
];

#[test]
fn a_failure_at_any_place_of_a_step_leaves_the_weights_and_the_step_can_be_repeated() {
    if env::var_os(CHILD).is_some() {
        return fail_everywhere_once();
    }
    let others = ["worker::load", "worker::optimizer", "worker::eval"];
    let places: Vec<String> = STEP_PLACES
        .iter()
        .map(|(place, _)| place)
        .chain(&others)
        .map(|place| format!("{place}=1*return(full)->off"))
        .collect();
    let test = "a_failure_at_any_place_of_a_step_leaves_the_weights_and_the_step_can_be_repeated";
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", &format!("tests::places::{test}"), "--nocapture"])
        .env(CHILD, "1")
        .env("FAILPOINTS", places.join(";"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text} {output:?}");
}

/// Every place refuses once. Nobody else trains in this process, so the first trainer of
/// undisturbed steps is made after the last place has had its turn.
fn fail_everywhere_once() {
    let config = config("smollm2", "llama2");
    check("worker::load", Trainer::new(&config, device()).map(drop));
    let digests = with_store(|port| {
        ranks(1, |_, exchange| {
            let mut trainer = Trainer::new(&config, device()).unwrap();
            let start = trainer.digest().unwrap();
            let enter = |trainer: &mut Trainer, prefix: &str| {
                let group = group(port, prefix, (0, 1));
                trainer.enter(group, &Restore::Kept, Path::new("")).unwrap();
            };
            for (place, is_underway) in STEP_PLACES {
                enter(&mut trainer, place);
                check(place, trainer.step(&shard(1, 32, (0, 1)), exchange).map(drop));
                assert_eq!((trainer.done(), trainer.pending()), (Step(0), None), "{place}");
                assert_eq!(trainer.progress().phase(), StepPhase::Idle, "{place}");
                assert_eq!(trainer.digest().unwrap(), start, "{place}");
                trainer.leave();
                if is_underway {
                    exchange.wait().unwrap();
                }
            }
            enter(&mut trainer, "whole");
            let eval = Shard { step: Step(0), kind: ShardKind::Eval, ..shard(1, 32, (0, 1)) };
            check("worker::eval", trainer.evaluate(&eval, exchange).map(drop));
            trainer.step(&shard(1, 32, (0, 1)), exchange).unwrap();
            check("worker::optimizer", trainer.apply(Step(1)));
            assert_eq!((trainer.done(), trainer.pending()), (Step(0), Some(Step(1))));
            assert_eq!(trainer.digest().unwrap(), start);
            trainer.apply(Step(1)).unwrap();
            let digest = trainer.digest().unwrap();

            let mut undisturbed = Trainer::new(&config, device()).unwrap();
            enter(&mut undisturbed, "undisturbed");
            train(&mut undisturbed, exchange, 1..=1, (0, 1)).unwrap();
            (digest, undisturbed.digest().unwrap())
        })
    });
    assert_eq!(digests[0].0, digests[0].1);
}

/// Expects the refusal of this place.
fn check(place: &str, result: Result<(), TrainError>) {
    let error = result.expect_err(place);
    assert_eq!(error.kind(), FailureKind::Storage, "{place}: {error}");
    assert!(error.to_string().contains(place), "{place}: {error}");
}
