//! Runs that go well, and runs that go on.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use prospect_core::{
    ExitCode, Rank, Restore, Resume, RunConfig, Shard, ShardKind, ShardPart, Step, Target,
};
use prospect_proto::Phase;

use super::script::{Script, Seen};
use super::world::World;
use crate::{Coordinator, CoordinatorError, Options};

fn two() -> [Script; 2] {
    [Script::default(), Script::default()]
}

/// Training shards of a rank from a step on.
fn shards(workers: &[Seen], rank: u32, after: Step) -> Vec<&Shard> {
    let seen = workers.iter().find(|seen| seen.rank == Some(Rank(rank))).unwrap();
    let is_wanted = |shard: &&Shard| shard.kind == ShardKind::Train && shard.step > after;
    seen.shards.iter().filter(is_wanted).collect()
}

fn targets(shard: &Shard) -> impl Iterator<Item = &Target> {
    shard.parts.iter().flat_map(|part| &part.targets)
}

/// Lines of the metrics, byte for byte.
pub(super) fn text(world: &World, run: &str) -> String {
    fs::read_to_string(world.path(run).join("metrics.jsonl")).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_of_two_workers_is_complete_and_leaves_its_files() {
    let world = World::new();
    let finished = world.run("run", &two()).await;
    let outcome = &finished.outcome;
    assert_eq!((outcome.phase, outcome.exit), (Phase::Complete, ExitCode::Complete), "{outcome:?}");
    assert_eq!(outcome.step, Step(8));
    assert_eq!(outcome.final_dir.as_deref(), Some(world.path("run").join("final").as_path()));
    assert!(finished.workers.iter().all(|seen| seen.is_closed && seen.aborted.is_none()));

    let metrics = world.metrics("run");
    assert_eq!(metrics.iter().map(|m| m.step.0).collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
    let last = metrics.last().unwrap();
    assert_eq!((last.epoch, last.world_size, last.grad_norm), (2.0, 2, Some(0.125)));
    let tokens: u64 = (0..2)
        .flat_map(|rank| shards(&finished.workers, rank, Step(0)))
        .flat_map(targets)
        .map(|target| target.sequence.num_tokens() as u64)
        .sum();
    assert_eq!(last.num_tokens, tokens);
    assert!(last.mfu.is_some_and(|mfu| (mfu - 2e9 / 0.5 / 2e12).abs() < 1e-9), "{last:?}");

    let evaluations = world.lines("run", "eval_metrics.jsonl");
    let steps: Vec<u64> = evaluations.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [3, 6, 8]);
    assert!(evaluations[0]["eval_rewards/margins"].is_f64());
    assert_eq!(world.names("run", "checkpoints"), ["step-000003", "step-000006"]);
    assert_eq!(world.names("run", "tensorboard").len(), 1);
    let report = fs::read_to_string(world.path("run").join("reports/report.html")).unwrap();
    assert!(report.contains(">complete<") && report.contains("KL"));
    let sequences: Vec<u64> = world
        .lines("run", "journal.jsonl")
        .iter()
        .map(|event| event["sequence"].as_u64().unwrap())
        .collect();
    assert_eq!(sequences, (1..=sequences.len() as u64).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_is_trained_on_once_an_epoch_and_reference_values_come_back() {
    let world = World::new();
    let finished = world.run("run", &two()).await;
    let rows_of_steps = |first: u64, last: u64| -> Vec<u64> {
        let all = (0..2).flat_map(|rank| shards(&finished.workers, rank, Step(0)));
        let wanted = all.filter(|shard| (first..=last).contains(&shard.step.0));
        wanted.flat_map(targets).map(|t| t.sequence.prompt_row.0).collect()
    };
    for (first, last) in [(1, 4), (5, 8)] {
        let rows = rows_of_steps(first, last);
        assert_eq!(rows.len(), 20);
        assert_eq!(rows.into_iter().collect::<BTreeSet<_>>().len(), 20);
    }
    for rank in 0..2 {
        for shard in shards(&finished.workers, rank, Step(0)) {
            let known = targets(shard).filter(|t| t.sequence.reference_log_prob.is_some());
            // In the second epoch every row has been seen; those of the last two steps before
            // may still have been under way when the shard was planned.
            let expected = if shard.step.0 <= 4 { 0 } else { targets(shard).count() };
            if shard.step.0 <= 4 || shard.step.0 >= 6 {
                assert_eq!(known.count(), expected, "step {}", shard.step);
            }
        }
    }
    let [first, second] = finished.workers.as_slice() else { panic!() };
    assert_eq!(first.points, second.points);
    assert!(first.points.iter().any(|(.., point)| point.z0 > 0.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_whose_worker_is_not_replaced_goes_on_later_from_a_checkpoint() {
    let world = World::new();
    let whole = world.run("whole", &two()).await;

    let world = world.with(&["coordinator.join_timeout_seconds=0.5"]);
    let dying = Script { dies_at: Some(Step(6)), ..Script::default() };
    let broken = world.run("broken", &[Script::default(), dying]).await;
    let outcome = &broken.outcome;
    assert_eq!((outcome.phase, outcome.exit), (Phase::Failed, ExitCode::PeerLost), "{outcome:?}");
    for expected in ["worker-0", "step-000003", "prospect train "] {
        assert!(outcome.message.contains(expected), "{}", outcome.message);
    }
    assert!(broken.workers[0].aborted.is_some());
    let report = fs::read_to_string(world.path("broken").join("reports/report.html")).unwrap();
    assert!(report.contains(">failed<"));

    let world = world.with(&["coordinator.join_timeout_seconds=20"]);
    let resumed = world.run("broken", &two()).await;
    assert_eq!(resumed.outcome.phase, Phase::Complete, "{:?}", resumed.outcome);
    for rank in 0..2 {
        let expected = shards(&whole.workers, rank, Step(3));
        assert_eq!(shards(&resumed.workers, rank, Step(3)), expected);
        assert_eq!(expected.len(), 5);
        let path = "checkpoints/step-000003".to_owned();
        let [(_, restore)] = resumed.workers[rank as usize].restores.as_slice() else { panic!() };
        assert_eq!(*restore, Restore::Checkpoint { path });
    }
    assert_eq!(text(&world, "broken"), text(&world, "whole"));
    let evaluations = |run| world.lines(run, "eval_metrics.jsonl");
    assert_eq!(evaluations("broken"), evaluations("whole"));

    let steps: Vec<(u64, u64)> =
        world.ledger("broken").iter().map(|(step, attempt, ..)| (*step, *attempt)).collect();
    let first = (1..=5).map(|step| (step, 1));
    assert_eq!(steps, first.chain((4..=8).map(|step| (step, 2))).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_stopped_saves_a_checkpoint_and_goes_on_from_it() {
    let world = World::new();
    let whole = world.run("whole", &two()).await;
    let slow = Script { step_time: Duration::from_millis(60), ..Script::default() };
    let metrics = world.path("stopped").join("metrics.jsonl");
    let second_step = async move {
        while fs::read_to_string(&metrics).map_or(0, |text| text.lines().count()) < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let stopped = world.run_until("stopped", &[slow.clone(), slow], second_step).await;
    let outcome = &stopped.outcome;
    assert_eq!((outcome.phase, outcome.exit), (Phase::Stopped, ExitCode::Preempted), "{outcome:?}");
    let checkpoint = outcome.step.directory_name();
    assert!(outcome.step >= Step(2) && outcome.message.contains(&checkpoint), "{outcome:?}");
    assert!(world.names("stopped", "checkpoints").contains(&checkpoint));
    assert_eq!(world.metrics("stopped").len() as u64, outcome.step.0);

    let resumed = world.run("stopped", &two()).await;
    assert_eq!(resumed.outcome.phase, Phase::Complete, "{:?}", resumed.outcome);
    for rank in 0..2 {
        let rest = shards(&resumed.workers, rank, Step(0));
        assert_eq!(rest, shards(&whole.workers, rank, outcome.step));
    }
    assert_eq!(text(&world, "stopped"), text(&world, "whole"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_complete_run_needs_no_workers_and_resume_never_refuses_it() {
    let world = World::new().with(&["train.steps=2", "checkpoint.every_steps=0"]);
    world.run("run", &two()).await;
    let coordinator = Coordinator::bind(world.options("run")).await.unwrap();
    assert!(coordinator.is_complete());
    let outcome = coordinator.run(std::future::pending()).await.unwrap();
    assert_eq!((outcome.exit, outcome.step), (ExitCode::Complete, Step(2)));

    let world = world.with(&["checkpoint.resume=never"]);
    let error = Coordinator::bind(world.options("run")).await.err().unwrap();
    assert!(matches!(error, CoordinatorError::RunDir { .. }), "{error}");
    assert_eq!(error.exit_code(), ExitCode::Usage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_had_to_be_new_goes_on_with_its_saved_configuration() {
    let world =
        World::new().with(&["checkpoint.resume=never", "coordinator.join_timeout_seconds=0.5"]);
    let dying = Script { dies_at: Some(Step(6)), ..Script::default() };
    let broken = world.run("a run", &[Script::default(), dying]).await.outcome;
    assert_eq!(broken.phase, Phase::Failed, "{broken:?}");
    let (config, dir) = (world.path("a run").join("run.toml"), world.path("a run"));
    let advice = format!("prospect train '{}' --run-dir '{}'", config.display(), dir.display());
    assert!(broken.message.ends_with(&advice), "{}", broken.message);

    let saved = RunConfig::parse(&fs::read_to_string(&config).unwrap(), &[]).unwrap();
    assert_eq!(saved.checkpoint.resume, Resume::Auto);
    let options = Options { config: saved, ..world.options("a run") };
    let coordinator = Coordinator::bind(options).await.unwrap();
    let notes: Vec<&str> = coordinator.notes().iter().map(|note| note.message.as_str()).collect();
    let note =
        "goes on after step 5 of 8 if a worker still has its weights, after step 3 otherwise";
    assert!(notes.contains(&note), "{notes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_tells_what_it_found_and_warns_of_what_is_wrong() {
    let world = World::new().with(&["objective.undesirable_weight=1.0"]);
    world.run("run", &two()).await;
    let checkpoints = world.path("run").join("checkpoints");
    fs::write(checkpoints.join("step-000006").join("MANIFEST.json"), "damaged").unwrap();
    fs::remove_dir_all(world.path("run").join("final")).unwrap();
    let coordinator = Coordinator::bind(world.options("run")).await.unwrap();
    let notes = coordinator.notes();
    for (words, is_warning) in [
        ("goes on after step 8 of 8 if a worker still has its weights, after step 3", false),
        ("20 rows, 8 desirable and 12 undesirable", false),
        ("step-000006 is not used", true),
        ("objective.desirable_weight", true),
    ] {
        let note = notes.iter().find(|note| note.message.contains(words));
        assert_eq!(note.map(|note| note.is_warning), Some(is_warning), "{words:?} in {notes:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_objective_without_pairs_gets_none() {
    let world = World::new().with(&[
        "objective.name=apo_zero_unpaired",
        "train.steps=1",
        "data.eval=[]",
        "coordinator.workers=1",
        "reference.cache=false",
    ]);
    let finished = world.run("run", &[Script::default()]).await;
    let shard = shards(&finished.workers, 0, Step(0))[0];
    let has_pairs = |part: &ShardPart| !part.mismatched.is_empty();
    assert!(!shard.parts.iter().any(has_pairs) && shard.num_pairs_global == 0);
    assert_eq!(finished.outcome.phase, Phase::Complete);
    assert!(!world.path("run").join("reference_cache.bin").exists());
}

/// Every pair of prompt and completion of every training step, with its label and weight.
async fn content(num_workers: usize, overrides: &[&str]) -> BTreeSet<String> {
    let workers = format!("coordinator.workers={num_workers}");
    let world = World::new().with(&[workers.as_str(), "data.eval=[]"]).with(overrides);
    let finished = world.run("run", &vec![Script::default(); num_workers]).await;
    let mut content = BTreeSet::new();
    for shard in finished.workers.iter().flat_map(|seen| &seen.shards) {
        let divisors = (shard.num_examples_global, shard.num_pairs_global);
        for target in targets(shard) {
            let (row, label) = (target.sequence.prompt_row, target.label);
            let weight = target.weight;
            content.insert(format!("{} {divisors:?} {row} {label:?} {weight}", shard.step));
        }
        for pair in shard.parts.iter().flat_map(|part| &part.mismatched) {
            let (prompt, completion) = (pair.prompt_row, pair.completion_row);
            content.insert(format!("{} {divisors:?} {prompt} with {completion}", shard.step));
        }
    }
    content
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_content_of_a_step_is_the_same_at_every_world_size() {
    let one = content(1, &[]).await;
    assert_eq!(one.len(), 80, "40 examples and a pair for each");
    assert_eq!(content(2, &[]).await, one);
    // Some ranks of seven have nothing to do in a batch of six.
    assert_eq!(content(7, &[]).await, one);
    let canonical = ["train.reduction=canonical", "train.reduction_parts=4"];
    assert_eq!(content(3, &canonical).await, one);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_canonical_reduction_the_record_does_not_show_the_world_size() {
    let canonical = ["train.reduction=canonical", "train.reduction_parts=4"];
    let mut ledgers = Vec::new();
    for num_workers in [1, 3] {
        let workers = format!("coordinator.workers={num_workers}");
        let world = World::new().with(&canonical).with(&[workers.as_str()]);
        let finished = world.run("run", &vec![Script::default(); num_workers]).await;
        let num_parts: Vec<usize> = (0..num_workers as u32)
            .map(|rank| shards(&finished.workers, rank, Step(0))[0].parts.len())
            .collect();
        assert_eq!(num_parts.iter().sum::<usize>(), 4);
        let mut ledger = world.ledger("run");
        ledger.iter_mut().for_each(|(.., rest)| drop(rest.remove("world_size")));
        ledgers.push(ledger);
    }
    assert_eq!(ledgers[0], ledgers[1]);
    let (.., first) = &ledgers[0][0];
    assert_eq!(first["rows"].as_array().unwrap().len(), 6);
    assert!(first["loss"].as_str().unwrap().len() == 16);
}
