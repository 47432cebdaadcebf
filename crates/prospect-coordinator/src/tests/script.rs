//! How a made-up worker behaves, and what it saw.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prospect_core::{Generation, Rank, ReferencePoint, Restore, Shard, ShardKind, Step};
use prospect_proto::FailureKind;
use tonic::Status;

/// How a worker behaves.
#[derive(Clone, Debug, Default)]
pub(super) struct Script {
    /// Ends without a word when it begins this step.
    pub(super) dies_at: Option<Step>,
    /// Ends without a word once it has reported this step.
    pub(super) dies_after_reporting: Option<Step>,
    /// Loses its session once when it begins this step, and comes back.
    pub(super) drops_session_at: Option<Step>,
    /// Reports log-ratio sums that are no numbers at this step.
    pub(super) not_finite_at: Option<Step>,
    /// Sends a message that means nothing at this step.
    pub(super) talks_nonsense_at: Option<Step>,
    /// Cannot write its first so many checkpoints.
    pub(super) num_failing_checkpoints: u32,
    /// Loads another model.
    pub(super) has_other_model: bool,
    /// Says everything twice.
    pub(super) repeats_itself: bool,
    /// After a loss it sends nonsense under the generation before.
    pub(super) speaks_of_the_past: bool,
    /// Looks for a coordinator again when its session has ended.
    pub(super) reconnects: bool,
    /// How long it takes for a step.
    pub(super) step_time: Duration,
    /// How long it takes to load the model.
    pub(super) load_time: Duration,
}

/// What a worker saw.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Its last rank.
    pub(super) rank: Option<Rank>,
    /// All shards that it has begun, in order.
    pub(super) shards: Vec<Shard>,
    /// Whether it was told that all reference values are known.
    pub(super) reference_is_known: bool,
    /// All reference points that it has used, in order.
    pub(super) points: Vec<(Step, ShardKind, u32, ReferencePoint)>,
    /// Where its weights came from, world by world.
    pub(super) restores: Vec<(Generation, Restore)>,
    /// Steps that were committed, in order.
    pub(super) commits: Vec<Step>,
    /// Generations that the world was broken up for.
    pub(super) regroups: Vec<Generation>,
    /// Checkpoints that are in their place.
    pub(super) durable: Vec<Step>,
    /// Sessions that it has opened.
    pub(super) num_sessions: u32,
    /// The reason and kind of an abort.
    pub(super) aborted: Option<(String, FailureKind)>,
    pub(super) refused: Option<Status>,
    pub(super) is_closed: bool,
}

/// Weights that pass from worker to worker: the step that a rank of a generation stood at.
#[derive(Clone, Debug, Default)]
pub(super) struct Peers(Arc<Mutex<HashMap<(Generation, Rank), Step>>>);

impl Peers {
    pub(super) fn put(&self, generation: Generation, rank: Rank, step: Step) {
        self.0.lock().unwrap().insert((generation, rank), step);
    }

    /// Waits for the rank's weights.
    pub(super) async fn get(&self, generation: Generation, rank: Rank) -> Step {
        loop {
            if let Some(step) = self.0.lock().unwrap().get(&(generation, rank)) {
                return *step;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
