//! Worlds that shrink and grow.

use std::future::pending;
use std::time::Duration;

use prospect_core::Step;
use prospect_proto::Phase;

use super::script::Script;
use super::world::World;
use crate::records::{History, Journal};

fn slow() -> Script {
    Script { step_time: Duration::from_millis(30), ..Script::default() }
}

/// Ranks that did each step.
fn world_sizes(world: &World) -> Vec<u64> {
    let ledger = world.ledger("run");
    ledger.iter().map(|(.., rest)| rest["world_size"].as_u64().unwrap()).collect()
}

/// Rows and pairs of each step.
fn content(world: &World, run: &str) -> Vec<(u64, String, String)> {
    let ledger = world.ledger(run);
    let content = ledger
        .into_iter()
        .map(|(step, .., rest)| (step, rest["rows"].to_string(), rest["pairs_sha256"].to_string()));
    content.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_goes_on_with_fewer_and_takes_more_when_they_come() {
    let world = World::new().with(&["train.steps=16"]);
    world.run("whole", &[Script::default(), Script::default()]).await;
    let world = world.with(&[
        "coordinator.min_workers=1",
        "coordinator.max_workers=3",
        "coordinator.replacement_wait_seconds=0.2",
    ]);
    let dying = Script { dies_at: Some(Step(4)), ..slow() };
    let mut started = world.start("run", &[slow(), dying], Box::pin(pending())).await;
    started.workers.remove(1).await.unwrap();
    world.until_step("run", 6).await;
    started.add(1, slow());
    world.until_step("run", 9).await;
    started.add(2, slow());
    let finished = started.finish().await;
    assert_eq!(finished.outcome.phase, Phase::Complete, "{:?}", finished.outcome);
    let sizes = world_sizes(&world);
    assert_eq!((sizes.len(), &sizes[..5]), (16, [2, 2, 2, 1, 1].as_slice()), "{sizes:?}");
    assert_eq!(sizes.last(), Some(&3), "{sizes:?}");
    assert!(sizes.contains(&2));
    assert_eq!(content(&world, "run"), content(&world, "whole"));
    // Each step stands in the journal under the generation that did it.
    Journal::open(&world.path("run").join("journal.jsonl"), History::default()).unwrap();
}
