//! Workers that are lost, replaced, cut off and given back.

use std::future::pending;
use std::time::Duration;

use prospect_core::{ExitCode, Generation, Rank, Restore, Step};
use prospect_proto::{FailureKind, Phase};

use super::runs::text;
use super::script::{Script, Seen};
use super::started::Started;
use super::world::World;
use crate::records::{History, Journal};

fn dies_at(step: u64) -> Script {
    Script { dies_at: Some(Step(step)), ..Script::default() }
}

/// A run that nothing happens to.
async fn whole() -> World {
    let world = World::new();
    let finished = world.run("whole", &[Script::default(), Script::default()]).await;
    assert_eq!(finished.outcome.phase, Phase::Complete, "{:?}", finished.outcome);
    world
}

/// Starts a run and waits until a worker is gone.
async fn until_gone(world: &World, scripts: &[Script], gone: usize) -> (Started, Seen) {
    let mut started = world.start("run", scripts, Box::pin(pending())).await;
    let seen = started.workers.remove(gone).await.unwrap();
    (started, seen)
}

/// The run has left what the whole one has left, but for generations.
#[track_caller]
fn check_equal(world: &World) {
    assert_eq!(text(world, "run"), text(world, "whole"));
    let evaluations = |run| world.lines(run, "eval_metrics.jsonl");
    assert_eq!(evaluations("run"), evaluations("whole"));
    let last_attempt = |run| {
        let mut steps = std::collections::BTreeMap::new();
        for (step, attempt, _, rest) in world.ledger(run) {
            let previous = steps.insert(step, (attempt, rest));
            assert!(previous.is_none_or(|(earlier, _)| earlier < attempt), "step {step} twice");
        }
        steps.into_iter().map(|(step, (_, rest))| (step, rest)).collect::<Vec<_>>()
    };
    assert_eq!(last_attempt("run"), last_attempt("whole"));
    // No number is missing, and the records follow from each other.
    Journal::open(&world.path("run").join("journal.jsonl"), History::default()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_lost_costs_no_step() {
    let world = whole().await;
    for step in [1, 5] {
        let _ = std::fs::remove_dir_all(world.path("run"));
        let (mut started, _) = until_gone(&world, &[Script::default(), dies_at(step)], 1).await;
        started.add(1, Script::default());
        let finished = started.finish().await;
        assert_eq!(finished.outcome.phase, Phase::Complete, "{:?}", finished.outcome);
        check_equal(&world);
        let [survivor, newcomer] = finished.workers.as_slice() else { panic!() };
        assert_eq!(survivor.regroups, [Generation(2)]);
        assert_eq!(newcomer.restores.len(), 1);
        let ledger = world.ledger("run");
        assert!(ledger.iter().all(|(_, attempt, ..)| *attempt == 1));
        let of_first = ledger.iter().filter(|(.., generation, _)| *generation == 1).count();
        assert_eq!(of_first as u64, step - 1);
        if step > 1 {
            let rank = survivor.rank.unwrap();
            assert_eq!(newcomer.restores[0].1, Restore::Peer { rank });
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rank_0_can_be_lost_after_its_report() {
    let world = whole().await;
    let dying = Script { dies_after_reporting: Some(Step(3)), ..Script::default() };
    let (mut started, _) = until_gone(&world, &[dying, Script::default()], 0).await;
    started.add(0, Script::default());
    let finished = started.finish().await;
    assert_eq!(finished.outcome.phase, Phase::Complete, "{:?}", finished.outcome);
    check_equal(&world);
    assert_eq!(finished.workers.iter().map(|seen| seen.regroups.len()).sum::<usize>(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_breaks_off_is_taken_up_again() {
    let world = whole().await;
    let dropping =
        Script { drops_session_at: Some(Step(4)), reconnects: true, ..Script::default() };
    let finished = world.run("run", &[Script::default(), dropping]).await;
    assert_eq!(finished.outcome.phase, Phase::Complete, "{:?}", finished.outcome);
    check_equal(&world);
    assert_eq!(finished.workers[1].num_sessions, 2);
    assert!(finished.workers.iter().all(|seen| seen.regroups.is_empty()));
    assert!(world.ledger("run").iter().all(|(.., generation, _)| *generation == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_twice_counts_once() {
    let world = whole().await;
    let twice = Script { repeats_itself: true, ..Script::default() };
    let finished = world.run("run", &[twice.clone(), twice]).await;
    assert_eq!(finished.outcome.phase, Phase::Complete, "{:?}", finished.outcome);
    check_equal(&world);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_belongs_to_an_earlier_generation_changes_nothing() {
    let world = whole().await;
    let old = Script { speaks_of_the_past: true, ..Script::default() };
    let (mut started, _) = until_gone(&world, &[old, dies_at(5)], 1).await;
    started.add(1, Script::default());
    let finished = started.finish().await;
    assert_eq!(finished.outcome.phase, Phase::Complete, "{:?}", finished.outcome);
    check_equal(&world);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_survivor_the_run_goes_back_and_its_records_are_cut() {
    let world = whole().await;
    let mut started = world.start("run", &[dies_at(6), dies_at(6)], Box::pin(pending())).await;
    for worker in std::mem::take(&mut started.workers) {
        worker.await.unwrap();
    }
    started.add(0, Script::default());
    started.add(1, Script::default());
    let finished = started.finish().await;
    assert_eq!(finished.outcome.phase, Phase::Complete, "{:?}", finished.outcome);
    check_equal(&world);
    for seen in &finished.workers {
        let [(_, restore)] = seen.restores.as_slice() else { panic!("{:?}", seen.restores) };
        assert_eq!(*restore, Restore::Checkpoint { path: "checkpoints/step-000003".into() });
    }
    let steps: Vec<(u64, u64)> =
        world.ledger("run").iter().map(|(step, attempt, ..)| (*step, *attempt)).collect();
    let first = (1..=5).map(|step| (step, 1));
    assert_eq!(steps, first.chain((4..=8).map(|step| (step, 2))).collect::<Vec<_>>());
    assert_eq!(world.names("run", "tensorboard").len(), 2);
    let message = &world.messages("run", "rolled_back")[0];
    assert!(message.contains("from step 5 to step 3"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_always_dies_ends_the_run_with_the_cause() {
    let world = World::new();
    let mut started =
        world.start("run", &[Script::default(), dies_at(2)], Box::pin(pending())).await;
    for _ in 0..2 {
        started.workers.remove(1).await.unwrap();
        started.add(1, dies_at(2));
    }
    let outcome = (&mut started.run).await.unwrap().unwrap();
    assert_eq!(outcome.exit, ExitCode::NoProgress, "{outcome:?}");
    assert!(outcome.message.contains("worker-1"), "{}", outcome.message);
    let survivor = started.workers.remove(0).await.unwrap();
    assert!(survivor.aborted.is_some_and(|(_, kind)| kind == FailureKind::NoProgress));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_was_replaced_is_refused() {
    let world = World::new();
    let slow =
        Script { step_time: Duration::from_millis(40), reconnects: true, ..Script::default() };
    let mut started = world.start("run", &[slow.clone(), slow.clone()], Box::pin(pending())).await;
    world.until_step("run", 2).await;
    started.add(1, slow);
    let replaced = started.workers.remove(1).await.unwrap();
    assert!(replaced.aborted.is_some() || replaced.refused.is_some(), "{replaced:?}");
    let finished = started.finish().await;
    assert_eq!(finished.outcome.phase, Phase::Complete, "{:?}", finished.outcome);
    assert_eq!(finished.workers[0].regroups.len(), 1);
    assert_eq!(finished.workers[1].rank, Some(Rank(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_stopped_while_it_recovers_saves_what_the_survivor_has() {
    let world = whole().await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = Box::pin(async move { drop(stopped.await) });
    let mut started = world.start("run", &[Script::default(), dies_at(5)], shutdown).await;
    started.workers.remove(1).await.unwrap();
    while world.messages("run", "regroup").is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.send(()).unwrap();
    let outcome = started.finish().await.outcome;
    assert_eq!((outcome.phase, outcome.exit), (Phase::Stopped, ExitCode::Preempted), "{outcome:?}");
    assert!(world.names("run", "checkpoints").contains(&"step-000004".to_owned()));

    let finished = world.run("run", &[Script::default(), Script::default()]).await;
    assert_eq!(finished.outcome.phase, Phase::Complete, "{:?}", finished.outcome);
    check_equal(&world);
    assert!(world.ledger("run").iter().all(|(_, attempt, ..)| *attempt == 1));
}
