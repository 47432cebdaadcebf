//! Budgets of tokens: what is refused before the first worker, and what "auto" becomes.

use std::fs;
use std::path::Path;

use prospect_core::{ExitCode, MicrobatchTokens, RunConfig};
use prospect_shape::{DeviceKind, WorkerDevice};

use super::world::World;
use crate::{Coordinator, CoordinatorError, Options};

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
    let device = Some(WorkerDevice { kind: DeviceKind::Cpu, memory_bytes });
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
    let error = refusal(&["train.microbatch_tokens=1000000"], Some(400_000_000)).await;
    assert!(error.to_string().contains("set it to "), "{error}");
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
    drop(Coordinator::bind(world.options("other")).await.unwrap());
    let text = fs::read_to_string(world.path("other").join("run.toml")).unwrap();
    assert!(text.contains("microbatch_tokens = 36"), "{text}");
}
