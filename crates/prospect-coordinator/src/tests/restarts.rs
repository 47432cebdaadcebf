//! Coordinators that end without a word, and those that come after them.

use std::collections::BTreeSet;
use std::fs;
use std::future::pending;
use std::path::Path;
use std::time::Duration;

use prospect_core::{Restore, Step};
use prospect_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use prospect_proto::{Phase, v1};
use tonic::Code;

use super::runs::text;
use super::script::Script;
use super::world::World;
use crate::records::{History, Journal};
use crate::{Coordinator, Options};

/// Two workers that take their time and look for a coordinator that is gone.
fn two() -> [Script; 2] {
    let patient =
        Script { step_time: Duration::from_millis(25), reconnects: true, ..Script::default() };
    [patient.clone(), patient]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_comes_again_takes_its_workers_back() {
    let world = World::new();
    world.run("whole", &two()).await;
    let mut started = world.start("run", &two(), Box::pin(pending())).await;
    for step in [2, 4, 7] {
        world.until_step("run", step).await;
        started.restart(world.options("run")).await;
    }
    let finished = started.finish().await;
    assert_eq!(finished.outcome.phase, Phase::Complete, "{:?}", finished.outcome);
    for seen in &finished.workers {
        assert_eq!(seen.commits, (1..=8).map(Step).collect::<Vec<_>>());
        assert!(seen.regroups.is_empty() && seen.restores.len() == 1, "{seen:?}");
        assert_eq!(seen.num_sessions, 4);
    }
    assert_eq!(world.messages("run", "generation").len(), 1);
    assert_eq!(text(&world, "run"), text(&world, "whole"));
    assert_eq!(world.ledger("run"), world.ledger("whole"));
    let evaluations = |run| world.lines(run, "eval_metrics.jsonl");
    assert_eq!(evaluations("run"), evaluations("whole"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_and_a_worker_can_be_lost_at_once() {
    let world = World::new().with(&["coordinator.heartbeat_timeout_seconds=0.5"]);
    world.run("whole", &two()).await;
    let mut started = world.start("run", &two(), Box::pin(pending())).await;
    world.until_step("run", 4).await;
    started.workers.remove(1).abort();
    started.restart(world.options("run")).await;
    started.add(1, Script::default());
    let finished = started.finish().await;
    assert_eq!(finished.outcome.phase, Phase::Complete, "{:?}", finished.outcome);
    let rank = finished.workers[0].rank.unwrap();
    assert_eq!(finished.workers[1].restores.last().unwrap().1, Restore::Peer { rank });
    assert_eq!(text(&world, "run"), text(&world, "whole"));
    assert!(world.ledger("run").iter().all(|(_, attempt, ..)| *attempt == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_was_replaced_stays_out_after_a_restart() {
    let world = World::new();
    let slow = two().map(|script| Script { step_time: Duration::from_millis(80), ..script });
    let mut started = world.start("run", &slow, Box::pin(pending())).await;
    world.until_step("run", 2).await;
    started.workers.remove(1).abort();
    let [_, newcomer] = slow;
    started.add(1, newcomer);
    while world.messages("run", "formed").len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    started.restart(world.options("run")).await;

    let lines = world.lines("run", "journal.jsonl");
    let first = lines.iter().find(|line| line["kind"] == "generation").unwrap();
    let members = first["data"]["members"].as_array().unwrap();
    let replaced = members.iter().find(|member| member[0] == "worker-1").unwrap();
    let request = v1::JoinRequest {
        worker_id: "worker-1".into(),
        incarnation: replaced[1].as_str().unwrap().into(),
        ..v1::JoinRequest::default()
    };
    let mut client = CoordinatorServiceClient::connect(started.url.clone()).await.unwrap();
    let refused = client.join(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    let finished = started.finish().await;
    assert_eq!(finished.outcome.phase, Phase::Complete, "{:?}", finished.outcome);
    assert!(finished.workers.iter().all(|seen| seen.regroups.len() <= 1), "nobody was replaced");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_ends_while_the_world_recovers_loses_no_step() {
    let world = World::new();
    world.run("whole", &two()).await;
    let [patient, _] = two();
    let dying = Script { dies_at: Some(Step(5)), ..patient.clone() };
    let mut started = world.start("run", &[patient.clone(), dying], Box::pin(pending())).await;
    started.workers.remove(1).await.unwrap();
    let journal = world.path("run").join("journal.jsonl");
    while !fs::read_to_string(&journal).unwrap().contains(r#""record":"regroup","generation":2"#) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    started.restart(world.options("run")).await;
    started.add(1, patient);
    let finished = started.finish().await;
    assert_eq!(finished.outcome.phase, Phase::Complete, "{:?}", finished.outcome);
    let [survivor, newcomer] = finished.workers.as_slice() else { panic!() };
    let rank = survivor.rank.unwrap();
    assert_eq!(newcomer.restores.last().unwrap().1, Restore::Peer { rank });
    assert_eq!(text(&world, "run"), text(&world, "whole"));
    let ledger = world.ledger("run");
    let steps: Vec<(u64, u64)> =
        ledger.iter().map(|(step, attempt, ..)| (*step, *attempt)).collect();
    assert_eq!(steps, (1..=8).map(|step| (step, 1)).collect::<Vec<_>>());
    let generations: Vec<u64> = ledger.iter().map(|(.., generation, _)| *generation).collect();
    assert!(generations.is_sorted() && generations[7] >= 3, "{generations:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_are_lost_the_run_goes_on_from_its_checkpoint() {
    let world = World::new().with(&["coordinator.heartbeat_timeout_seconds=0.5"]);
    world.run("whole", &two()).await;
    let mut started = world.start("run", &two(), Box::pin(pending())).await;
    world.until_step("run", 5).await;
    for worker in started.workers.drain(..) {
        worker.abort();
    }
    started.restart(world.options("run")).await;
    for (rank, script) in (0..).zip(two()) {
        started.add(rank, script);
    }
    let finished = started.finish().await;
    assert_eq!(finished.outcome.phase, Phase::Complete, "{:?}", finished.outcome);
    for seen in &finished.workers {
        let path = "checkpoints/step-000003".to_owned();
        assert_eq!(seen.restores.last().unwrap().1, Restore::Checkpoint { path });
    }
    assert_eq!(text(&world, "run"), text(&world, "whole"));
    let ledger = world.ledger("run");
    let second = ledger.iter().filter(|(_, attempt, ..)| *attempt == 2);
    assert_eq!(second.map(|line| line.0).collect::<Vec<_>>(), [4, 5, 6, 7, 8]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_whose_disk_is_lost_goes_on_from_its_mirror() {
    let world = World::new();
    world.run("whole", &two()).await;
    let mirror = format!("checkpoint.mirror=\"file://{}\"", world.path("mirror").display());
    let world = world.with(&[&mirror, "coordinator.join_timeout_seconds=0.5"]);
    let dying = Script { dies_at: Some(Step(6)), ..Script::default() };
    world.run("run", &[Script::default(), dying]).await;
    assert!(!world.messages("run", "checkpoint_mirrored").is_empty());
    fs::remove_dir_all(world.path("run")).unwrap();

    let world = world.with(&["coordinator.join_timeout_seconds=20"]);
    let finished = world.run("run", &two()).await;
    assert_eq!(finished.outcome.phase, Phase::Complete, "{:?}", finished.outcome);
    let path = "checkpoints/step-000003".to_owned();
    assert_eq!(finished.workers[0].restores[0].1, Restore::Checkpoint { path });
    assert!(world.messages("run", "mirror_used")[0].contains("step-000003"));
    // What the last coordinator may not have copied any more is handed over again.
    let mirrored = world.messages("run", "checkpoint_mirrored");
    assert!(mirrored.iter().any(|message| message.contains("is in file")), "{mirrored:?}");
    assert_eq!(text(&world, "run"), text(&world, "whole"));
}

/// A copy of a run as it was when its journal had these bytes.
fn copy(run: &Path, to: &Path, journal: &[u8]) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(run).unwrap() {
        let entry = entry.unwrap();
        let place = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &place, b""),
            false => drop(fs::copy(entry.path(), &place).unwrap()),
        }
    }
    if !journal.is_empty() {
        fs::write(to.join("journal.jsonl"), journal).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_between_any_two_lines_leaves_a_record_without_gaps() {
    let world = World::new().with(&["train.steps=4"]);
    let slow = Script { step_time: Duration::from_millis(5), ..Script::default() };
    let finished = world.run("whole", &[slow.clone(), slow]).await;
    assert_eq!(finished.outcome.phase, Phase::Complete);
    fs::remove_dir_all(world.path("whole/final")).unwrap();
    let bytes = fs::read(world.path("whole/journal.jsonl")).unwrap();
    let ends: Vec<usize> =
        (0..bytes.len()).filter(|&idx| bytes[idx] == b'\n').map(|idx| idx + 1).collect();
    let mut committed_of_cuts = BTreeSet::new();
    for (number, &end) in ends.iter().enumerate() {
        let next = ends.get(number + 1).copied().unwrap_or(end);
        // At the line's end, and within the next one: in its middle, or before its line feed.
        let within = if number % 2 == 0 { usize::midpoint(end, next) } else { next - 1 };
        for cut in BTreeSet::from([end, within.max(end)]) {
            let dir = world.path("cut");
            let _ = fs::remove_dir_all(&dir);
            copy(&world.path("whole"), &dir, &bytes[..cut]);
            let options = Options { run_dir: dir.clone(), ..world.options("cut") };
            drop(Coordinator::bind(options).await.unwrap());

            let lines = world.lines("cut", "journal.jsonl");
            assert!(lines.len() > number + 1, "the start is on record");
            let numbers: Vec<u64> =
                lines.iter().map(|line| line["sequence"].as_u64().unwrap()).collect();
            assert_eq!(numbers, (1..=lines.len() as u64).collect::<Vec<_>>());
            let (_, past) = Journal::open(&dir.join("journal.jsonl"), History::default()).unwrap();
            let committed = past.replay.committed;
            assert_eq!(world.metrics("cut").len() as u64, committed.0);
            assert_eq!(past.replay.checkpoints.contains_key(&Step(3)), committed >= Step(3));
            let evaluations = world.lines("cut", "eval_metrics.jsonl");
            assert!(evaluations.iter().all(|line| line["step"].as_u64().unwrap() <= committed.0));
            committed_of_cuts.insert(committed);
        }
    }
    assert_eq!(committed_of_cuts, (0..=4).map(Step).collect());
}
