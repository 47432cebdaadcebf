//! Budgets of tokens: what is refused before the first worker, and what "auto" becomes.

use std::fs;
use std::path::Path;

use prospect_core::{Dtype, ExitCode, MicrobatchTokens, RunConfig};
use prospect_shape::{DeviceKind, MainMemory, Memory, ModelConfig, Parts, Setup, WorkerDevice};

use super::script::Script;
use super::world::World;
use crate::{Coordinator, CoordinatorError, Options, ReferenceWork};

/// A world whose model has the shape of a real one, though no weights.
fn world(overrides: &[&str]) -> World {
    let world = World::new().with(overrides);
    let shape = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../prospect-model/fixtures/smollm2/config.json");
    fs::copy(shape, world.path("model").join("config.json")).unwrap();
    world
}

/// The error of a start with these settings and workers with so many bytes.
async fn refusal(overrides: &[&str], memory_bytes: Option<u64>) -> CoordinatorError {
    let device = Some(WorkerDevice { kind: DeviceKind::Cpu, memory_bytes, main_memory: None });
    let world = world(overrides);
    let options = Options { device, ..world.options("run") };
    let error = Coordinator::bind(options).await.err().expect("the coordinator must refuse");
    assert_eq!(error.exit_code(), ExitCode::Usage, "{error}");
    error
}

/// The budget that the run directory says.
fn written(world: &World) -> u32 {
    let text = fs::read_to_string(world.path("run").join("run.toml")).unwrap();
    match RunConfig::parse(&text, &[]).unwrap().train.microbatch_tokens {
        MicrobatchTokens::Fixed(tokens) => tokens,
        MicrobatchTokens::Auto => panic!("nothing was settled: {text}"),
    }
}

#[tokio::test]
async fn a_budget_below_the_longest_sequence_is_refused_with_one_that_holds_it() {
    let error = refusal(&["train.microbatch_tokens=8"], None).await;
    assert_eq!(
        error.to_string(),
        "train.microbatch_tokens is 8, but the longest training sequence has 12 tokens: set it to 12 or more, or to \"auto\", or data.max_length to at most 8"
    );
    let enough = World::new().with(&["train.microbatch_tokens=12"]);
    Coordinator::bind(enough.options("run")).await.unwrap();
}

#[tokio::test]
async fn auto_needs_to_know_the_memory() {
    let error = refusal(&["train.microbatch_tokens=auto"], None).await;
    assert!(error.to_string().contains("set train.memory_gb to what each may use"), "{error}");
}

#[tokio::test]
async fn what_does_not_fit_is_refused_with_what_would() {
    for tokens in ["train.microbatch_tokens=24", "train.microbatch_tokens=auto"] {
        let error = refusal(&[tokens], Some(100_000_000)).await;
        assert!(error.to_string().starts_with("the model does not fit"), "{error}");
        let error = refusal(&[tokens, "train.memory_gb=0.1"], Some(1 << 40)).await;
        assert!(error.to_string().contains("90 MB can be planned with"), "{error}");
    }
}

#[tokio::test]
async fn a_large_reference_behind_a_small_policy_is_refused() {
    let world = world(&["train.microbatch_tokens=24"]);
    let dir = world.path("reference");
    fs::create_dir(&dir).unwrap();
    let text = fs::read_to_string(world.path("model").join("config.json")).unwrap();
    let mut shape: serde_json::Value = serde_json::from_str(&text).unwrap();
    (shape["hidden_size"], shape["intermediate_size"]) = (4096.into(), 14_336.into());
    fs::write(dir.join("config.json"), shape.to_string()).unwrap();
    fs::write(dir.join("model.safetensors"), "no weights").unwrap();
    let memory_bytes = Some(1_500_000_000);
    let device = Some(WorkerDevice { kind: DeviceKind::Cpu, memory_bytes, main_memory: None });
    drop(Coordinator::bind(Options { device, ..world.options("alike") }).await.unwrap());
    let world = world.with(&[&format!("reference.path={}", dir.display())]);
    let found = Coordinator::bind(Options { device, ..world.options("apart") }).await;
    let error = found.err().expect("the reference does not fit").to_string();
    assert!(error.starts_with("the model does not fit"), "{error}");
    assert!(error.contains("is for reference"), "{error}");
}

#[tokio::test]
async fn main_memory_beside_the_devices_is_checked() {
    let world = world(&["train.microbatch_tokens=24"]);
    let start = |bytes: Option<u64>, run| {
        let (kind, memory_bytes) = (DeviceKind::Cuda, Some(1 << 40));
        let main_memory = bytes.map(|bytes| MainMemory { bytes, workers: 2 });
        let device = Some(WorkerDevice { kind, memory_bytes, main_memory });
        Coordinator::bind(Options { device, ..world.options(run) })
    };
    drop(start(None, "unknown").await.unwrap());
    drop(start(Some(1 << 40), "much").await.unwrap());
    let error = start(Some(1 << 30), "little").await.err().expect("it must refuse").to_string();
    assert!(error.contains("too little main memory"), "{error}");
    assert!(error.contains("fewer workers on each"), "{error}");
}

#[tokio::test]
async fn a_budget_beyond_what_a_worker_ever_has_needs_no_room() {
    let device = Some(WorkerDevice {
        kind: DeviceKind::Cpu,
        memory_bytes: Some(400_000_000),
        main_memory: None,
    });
    let world = world(&["train.microbatch_tokens=100000000"]);
    Coordinator::bind(Options { device, ..world.options("run") }).await.unwrap();
    // One step of all rows does not fit.
    let many = ["train.microbatch_tokens=100000000", "train.global_batch_size=1000000"];
    let error = refusal(&many, Some(400_000_000)).await;
    assert!(error.to_string().contains("set it to "), "{error}");
    assert!(error.to_string().contains("train.memory_gb"), "{error}");
}

#[tokio::test]
async fn devices_that_are_not_known_are_refused_where_no_kind_fits() {
    // A worker needs 0.2 GB on a CPU, and a GPU's runtime alone needs 1 GB.
    for (gigabytes, fits) in [(0.1, false), (0.4, true), (4.0, true)] {
        let memory = format!("train.memory_gb={gigabytes}");
        let many = "train.global_batch_size=1000000";
        let world = world(&["train.microbatch_tokens=auto", many, &memory]);
        let options = world.options("run");
        assert_eq!(options.device, None);
        let found = Coordinator::bind(options).await.map(drop);
        assert_eq!(found.is_ok(), fits, "{gigabytes} GB: {found:?}");
        let Err(error) = found else { continue };
        assert!(error.to_string().starts_with("the model does not fit"), "{error}");
    }
    let auto = |kind: Option<DeviceKind>| async move {
        let many = "train.global_batch_size=1000000";
        let world = world(&["train.microbatch_tokens=auto", many, "train.memory_gb=4"]);
        let device = kind.map(|kind| WorkerDevice { kind, memory_bytes: None, main_memory: None });
        drop(Coordinator::bind(Options { device, ..world.options("run") }).await.unwrap());
        written(&world)
    };
    let (cpu, cuda) = (auto(Some(DeviceKind::Cpu)).await, auto(Some(DeviceKind::Cuda)).await);
    assert_ne!(cpu, cuda);
    assert_eq!(auto(None).await, cpu.min(cuda));
}

#[tokio::test]
async fn a_reference_whose_values_are_known_takes_no_room() {
    let world = world(&["model.dtype=float32", "train.microbatch_tokens=24"]);
    let config = world.options("run").config;
    let parts = Parts::new(&ModelConfig::read(&world.path("model")).unwrap());
    let needed = |loads_reference| {
        let setup = Setup { loads_reference, ..Setup::new(&config, DeviceKind::Cpu) };
        Memory::new(&parts, &setup, 24, 0.5).device_peak()
    };
    // Nine tenths are planned with.
    let between = (needed(true) + needed(false)) / 2 * 10 / 9;
    let start = || {
        let device = Some(WorkerDevice {
            kind: DeviceKind::Cpu,
            memory_bytes: Some(between),
            main_memory: None,
        });
        Coordinator::bind(Options { device, ..world.options("run") })
    };
    let error = start().await.err().expect("the reference does not fit");
    assert!(error.to_string().contains("can be planned with"), "{error}");

    let work = ReferenceWork::open(config.clone(), &world.path("run"), Dtype::Float32).unwrap();
    (0..work.num_missing()).for_each(|idx| work.add(idx, -1.0).unwrap());
    work.finish().unwrap();
    drop(start().await.unwrap());
    // The run has its values now, and goes on with them.
    fs::remove_dir_all(world.path("run").join("cache").join("reference")).unwrap();
    drop(start().await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_complete_says_so_before_anything_is_refused() {
    let world = world(&[]);
    let finished = world.run("run", &[Script::default(), Script::default()]).await;
    assert_eq!(finished.outcome.exit, ExitCode::Complete, "{:?}", finished.outcome);
    let little = world.with(&["train.memory_gb=0.1"]);
    let coordinator = Coordinator::bind(little.options("run")).await.unwrap();
    assert!(coordinator.is_complete());
}

#[tokio::test]
async fn auto_becomes_a_number_that_a_resume_keeps() {
    let auto = ["train.microbatch_tokens=auto", "train.memory_gb=8", "coordinator.min_workers=1"];
    let world = world(&auto);
    drop(Coordinator::bind(world.options("run")).await.unwrap());
    // One worker may have to do all 6 rows of at most 12 tokens.
    assert_eq!(written(&world), 72);
    let notes = world.messages("run", "microbatch_tokens");
    assert_eq!(notes.len(), 1);
    assert!(notes[0].starts_with("train.microbatch_tokens = 72, with 8.0 GB"), "{notes:?}");
    let manifest = fs::read_to_string(world.path("run").join("manifest.json")).unwrap();
    assert!(manifest.contains("\"train.microbatch_tokens\": 72"), "{manifest}");

    let world = world.with(&["coordinator.min_workers=2", "coordinator.max_workers=3"]);
    drop(Coordinator::bind(world.options("run")).await.unwrap());
    assert_eq!(written(&world), 72, "other workers change no run that has begun");
    // What a run began with is not held against today's memory.
    let little = world.with(&["train.memory_gb=0.1"]);
    drop(Coordinator::bind(little.options("run")).await.unwrap());
    assert_eq!(written(&little), 72);
    let world = little.with(&["train.memory_gb=8"]);
    drop(Coordinator::bind(world.options("other")).await.unwrap());
    let text = fs::read_to_string(world.path("other").join("run.toml")).unwrap();
    assert!(text.contains("microbatch_tokens = 36"), "{text}");
}
