//! Reference values that runs share, and that are computed ahead.

use std::fs;
use std::future::pending;
use std::path::PathBuf;

use prospect_core::{Dtype, ExitCode, Sequence, ShardKind, Step};
use prospect_proto::Phase;
use prospect_shape::{DeviceKind, WorkerDevice};

use super::made_up::log_prob;
use super::script::Script;
use super::started::{Finished, Started};
use super::world::World;
use crate::{Coordinator, CoordinatorError, Options, ReferenceWork};

/// Runs that keep their values in one directory.
fn sharing() -> World {
    let world = World::new();
    let cache_dir = format!("reference.cache_dir={:?}", world.path("values"));
    world.with(&["model.dtype=float32", &cache_dir])
}

fn two() -> [Script; 2] {
    [Script::default(), Script::default()]
}

/// All sequences that the workers were given, with the step and the kind of their pass.
fn sequences(finished: &Finished) -> impl Iterator<Item = (Step, ShardKind, &Sequence)> {
    let shards = finished.workers.iter().flat_map(|seen| &seen.shards);
    shards.flat_map(|shard| {
        let parts = shard.parts.iter().flat_map(|part| {
            part.targets.iter().map(|target| &target.sequence).chain(&part.mismatched)
        });
        parts.map(|sequence| (shard.step, shard.kind, sequence))
    })
}

/// Fails unless every sequence came with the value that `log_prob` gives it.
#[track_caller]
fn check_known(finished: &Finished) {
    assert_eq!(finished.outcome.phase, Phase::Complete, "{:?}", finished.outcome);
    for (step, kind, sequence) in sequences(finished) {
        let expected = Some(log_prob(sequence));
        assert_eq!(sequence.reference_log_prob, expected, "{kind:?} {step}: {sequence:?}");
    }
    assert!(finished.workers.iter().all(|seen| seen.reference_is_known));
}

/// The files of values below a directory.
fn files(root: PathBuf) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for dir in fs::read_dir(root).unwrap() {
        let entries = fs::read_dir(dir.unwrap().path()).unwrap();
        files.extend(entries.map(|entry| entry.unwrap().path()));
    }
    files
}

fn work(world: &World, run: &str) -> Result<ReferenceWork, CoordinatorError> {
    let config = world.options(run).config;
    ReferenceWork::open(config, &world.path(run), Dtype::Float32)
}

/// Scores the missing sequences of this range.
fn compute(work: &ReferenceWork, range: std::ops::Range<usize>) {
    range.for_each(|idx| work.add(idx, log_prob(&work.sequence(idx))).unwrap());
}

#[track_caller]
fn check_refused(error: &CoordinatorError, exit: ExitCode, words: &[&str]) {
    let message = error.to_string();
    assert_eq!(error.exit_code(), exit, "{message}");
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_values_of_one_run_serve_the_next_from_its_first_step() {
    let world = sharing();
    let first = world.run("first", &two()).await;
    assert!(first.workers.iter().all(|seen| !seen.reference_is_known));
    assert!(sequences(&first).any(|(.., sequence)| sequence.reference_log_prob.is_none()));

    let second = world.run("second", &two()).await;
    check_known(&second);
    let notes = world.messages("second", "reference_values");
    assert!(notes[0].starts_with("took "), "{notes:?}");
    assert!(notes[1].contains("workers do not load the model"), "{notes:?}");
    // The second had nothing to add.
    assert_eq!(files(world.path("values")).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_run_takes_is_fixed_at_its_first_start() {
    let world = sharing();
    let few = world.with(&["train.steps=2", "data.eval=[]"]);
    few.run("first", &two()).await;
    let world = few.with(&["train.steps=8"]);
    let begun = Coordinator::bind(world.options("second")).await.unwrap();
    let took = world.messages("second", "reference_values");
    assert_eq!(took.len(), 1, "{took:?}");
    drop(begun);

    // Another run computes the rest before the second goes on.
    world.run("third", &two()).await;
    let finished = world.run("second", &two()).await;
    assert_eq!(world.messages("second", "reference_values"), took);
    let known = |step: u64| {
        let mut of_step = sequences(&finished).filter(|(found, ..)| *found == Step(step));
        of_step.all(|(.., sequence)| sequence.reference_log_prob.is_some())
    };
    assert_eq!([known(1), known(2), known(3)], [true, true, false]);
    assert!(finished.workers.iter().all(|seen| !seen.reference_is_known));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_were_computed_ahead_are_all_that_a_run_needs() {
    // More than an epoch: the pairs of the second one are others.
    let world = World::new().with(&["model.dtype=float32"]);
    let work = work(&world, "run").unwrap();
    let num_values = work.num_values();
    assert_eq!(work.num_missing(), num_values);
    // As of a process that was killed: only what it had computed is known.
    compute(&work, 0..num_values / 3);
    drop(work);

    let work = self::work(&world, "run").unwrap();
    assert_eq!(work.num_values(), num_values);
    assert_eq!(work.num_missing(), num_values - num_values / 3);
    compute(&work, 0..work.num_missing());
    work.finish().unwrap();
    assert_eq!(self::work(&world, "run").unwrap().num_missing(), 0);

    check_known(&world.run("run", &two()).await);
    // The run directory of another one knows nothing.
    assert_eq!(self::work(&world, "other").unwrap().num_missing(), num_values);
    let error = self::work(&world, "run").unwrap_err();
    check_refused(&error, ExitCode::Usage, &["has begun", "set reference.cache_dir"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_objective_without_pairs_needs_the_rows_alone() {
    let world = sharing().with(&["objective.name=apo_zero_unpaired"]);
    let work = work(&world, "run").unwrap();
    assert_eq!(work.num_values(), 20 + 8);
    compute(&work, 0..28);
    work.finish().unwrap();
    check_known(&world.run("run", &two()).await);
}

#[test]
fn shares_keep_prompts_together_and_hold_everything_once() {
    let world = sharing();
    let work = work(&world, "run").unwrap();
    let prompt = |idx: usize| {
        let sequence = work.sequence(idx);
        sequence.token_ids[..sequence.completion_start as usize].to_vec()
    };
    let tokens = |share: &std::ops::Range<usize>| -> usize {
        share.clone().map(|idx| work.sequence(idx).num_tokens()).sum()
    };
    for num_shares in [1, 2, 3, 7, 1000] {
        let shares = work.shares(num_shares);
        assert!(shares.len() <= num_shares && shares.iter().all(|share| !share.is_empty()));
        let all: Vec<usize> = shares.iter().cloned().flatten().collect();
        assert_eq!(all, (0..work.num_missing()).collect::<Vec<_>>());
        for pair in shares.windows(2) {
            assert_ne!(prompt(pair[0].end - 1), prompt(pair[1].start), "{shares:?}");
        }
        if num_shares < 4 {
            let most = shares.iter().map(tokens).max().unwrap();
            assert!(most * num_shares < 2 * tokens(&(0..work.num_missing())), "{shares:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_cannot_be_written_is_refused() {
    let world = sharing();
    fs::write(world.path("values"), "a file").unwrap();
    let error = Coordinator::bind(world.options("run")).await.err().unwrap();
    let words = ["reference.cache_dir", "values", "choose another directory"];
    check_refused(&error, ExitCode::Storage, &words);
    check_refused(&work(&world, "run").unwrap_err(), ExitCode::Storage, &words);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_another_model_are_refused_before_the_run_begins() {
    let world = sharing();
    world.run("first", &two()).await;
    let [file] = files(world.path("values")).try_into().unwrap();
    // The file of these weights lies where that of others belongs.
    fs::write(world.path("model").join("model.safetensors"), "other weights").unwrap();
    drop(work(&world, "run").unwrap());
    let dirs = fs::read_dir(world.path("values")).unwrap().map(|dir| dir.unwrap().path());
    let other = dirs.into_iter().find(|dir| !file.starts_with(dir)).unwrap();
    fs::copy(&file, other.join(file.file_name().unwrap())).unwrap();
    let error = Coordinator::bind(world.options("second")).await.err().unwrap();
    check_refused(&error, ExitCode::Corrupt, &["values of", "move the file away"]);
    let error = work(&world, "second").unwrap_err();
    check_refused(&error, ExitCode::Corrupt, &["values of", "move the file away"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_type_that_the_devices_decide_is_refused_unless_it_is_known() {
    let world = sharing().with(&["model.dtype=auto"]);
    let error = Coordinator::bind(world.options("run")).await.err().unwrap();
    check_refused(&error, ExitCode::Usage, &["model.dtype", "\"float32\" or \"bfloat16\""]);
    let device = WorkerDevice { kind: DeviceKind::Cpu, memory_bytes: None, main_memory: None };
    let options = Options { device: Some(device), ..world.options("run") };
    Coordinator::bind(options).await.unwrap();

    // Values in the run directory are only left aside.
    let world = World::new();
    fs::create_dir_all(world.path("run").join("cache").join("reference")).unwrap();
    drop(Coordinator::bind(world.options("run")).await.unwrap());
    let notes = world.messages("run", "reference_values");
    assert!(notes[0].contains("are not used: set model.dtype"), "{notes:?}");
}

#[test]
fn values_that_no_run_would_keep_are_not_computed() {
    let world = World::new().with(&["reference.cache=false"]);
    let error = work(&world, "run").unwrap_err();
    check_refused(&error, ExitCode::Usage, &["reference.cache is false", "set it to true"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_goes_on_when_its_values_cannot_be_shared_any_more() {
    let world = sharing();
    let mut coordinator = Coordinator::bind(world.options("run")).await.unwrap();
    coordinator.fill_shared_disk();
    let finished = Started::new(coordinator, &two(), Box::pin(pending())).finish().await;
    assert_eq!(finished.outcome.phase, Phase::Complete, "{:?}", finished.outcome);
    assert_eq!(world.messages("run", "reference_not_shared").len(), 1);
}
