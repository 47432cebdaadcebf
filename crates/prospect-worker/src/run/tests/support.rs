//! What the made-up coordinator of a run usually does.

use std::path::Path;

use prospect_core::{
    KlSums, Label, Rank, Restore, RowId, Sequence, Shard, ShardKind, ShardPart, Step, Target,
};
use prospect_proto::{CoordinatorMessage as To, WorkerMessage as From};
use tempfile::TempDir;

use crate::testing::{Do, Heard, Scripted, tiny_model};

/// A run directory as the coordinator makes it.
pub fn run_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("checkpoints")).unwrap();
    dir
}

fn sequence(row: u64, token_ids: &[u32]) -> Sequence {
    Sequence {
        prompt_row: RowId(row),
        completion_row: RowId(row),
        token_ids: token_ids.to_vec(),
        completion_start: 2,
        reference_log_prob: None,
    }
}

/// A step's work for a world of one.
pub fn shard(step: u64, checkpoint_after: bool) -> To {
    shard_of(0, step, checkpoint_after)
}

/// A step's work for one rank.
pub fn shard_of(part: u32, step: u64, checkpoint_after: bool) -> To {
    let target = |row, ids: &[u32], desirable| Target {
        sequence: sequence(row, ids),
        label: Label::from(desirable),
        weight: 1.0,
    };
    let part = ShardPart {
        part,
        targets: vec![target(0, &[5, 6, 7, 8], true), target(1, &[9, 10, 11], false)],
        mismatched: vec![sequence(2, &[12, 13, 14])],
        target_microbatches: vec![vec![0, 1]],
        mismatched_microbatches: vec![vec![0]],
    };
    To::Shard(Box::new(Shard {
        step: Step(step),
        kind: ShardKind::Train,
        num_examples_global: 2,
        num_pairs_global: 1,
        learning_rate: 1e-3,
        parts: vec![part],
        checkpoint_after,
        ..Shard::default()
    }))
}

pub fn finish() -> To {
    To::Finish { path: "final".into() }
}

pub fn stop() -> To {
    To::Stop { reason: "SIGTERM".into(), num_retries: 0 }
}

pub fn regroup(committed: u64) -> To {
    To::Regroup { committed: Step(committed), reason: "worker w9 was lost".into() }
}

pub fn place(rank: u32, world_size: u32, restore: Restore) -> To {
    To::Assignment { rank: Rank(rank), world_size, restore }
}

pub fn rendezvous(host: &str, port: u16, generation: u64) -> To {
    To::Rendezvous { host: host.to_owned(), port, prefix: format!("g{generation}") }
}

/// What a coordinator that nothing happens to answers to this; places and work are the test's.
pub fn usual(heard: &Heard) -> Vec<Do> {
    let message = match &heard.message {
        From::StoreReady { host, port } => rendezvous(host, *port, heard.generation),
        From::KlReport { step, kind, eval_index, parts } => {
            let mut sums = KlSums::default();
            parts.iter().for_each(|part| sums.merge(&part.sums));
            let (step, kind, eval_index) = (*step, *kind, *eval_index);
            To::ReferencePoint { step, kind, eval_index, point: sums.reference_point() }
        }
        From::StepReport(report) if report.kind == ShardKind::Train => {
            To::Commit { step: report.step }
        }
        From::CheckpointWritten { step, .. } => To::CheckpointDurable { step: *step },
        From::FinalWritten { .. } => To::Close,
        _ => return Vec::new(),
    };
    vec![Do::Say(message)]
}

/// A coordinator of a world of one: the worker gets its place when it has loaded or stands by,
/// and all `orders` when it is ready for the first time. A run that is stopped ends with the
/// checkpoint of its last step. What `special` gives goes first.
pub fn solo(
    run_dir: &TempDir,
    orders: Vec<To>,
    mut special: impl FnMut(&Heard) -> Option<Vec<Do>> + Send + 'static,
) -> Scripted {
    let mut is_stopped = false;
    let mut last_step = Step(0);
    let mut written = None;
    let mut orders = Some(orders);
    scripted(run_dir.path(), move |heard| {
        let mut acts = special(heard).unwrap_or_else(|| match &heard.message {
            From::Loaded { .. } => vec![Do::Say(place(0, 1, Restore::Initial))],
            From::Standing { .. } => vec![Do::Say(place(0, 1, Restore::Kept))],
            From::Ready { .. } => {
                orders.take().unwrap_or_default().into_iter().map(Do::Say).collect()
            }
            From::CheckpointWritten { step, .. } if is_stopped && *step == last_step => {
                vec![Do::Say(To::CheckpointDurable { step: *step }), Do::Say(To::Close)]
            }
            _ => usual(heard),
        });
        let was_stopped = is_stopped;
        for act in &acts {
            match act {
                Do::Say(To::Stop { .. }) => is_stopped = true,
                Do::Say(To::Shard(shard)) => last_step = shard.step,
                _ => {}
            }
        }
        if let From::CheckpointWritten { step, .. } = &heard.message {
            written = Some(*step);
        }
        // That checkpoint may have been there before the stop.
        if is_stopped && !was_stopped && written == Some(last_step) {
            acts.push(Do::Say(To::Close));
        }
        acts
    })
}

/// A coordinator that only does what `react` says.
pub fn scripted(run_dir: &Path, react: impl FnMut(&Heard) -> Vec<Do> + Send + 'static) -> Scripted {
    let mut scripted = Scripted::new(&tiny_model(), react);
    scripted.run_dir = run_dir.to_owned();
    scripted
}

/// What was said, in a few words a message.
pub fn words(heard: &[Heard]) -> Vec<String> {
    heard.iter().map(|heard| word(&heard.message)).collect()
}

/// What one worker said, in a few words a message.
pub fn words_of(worker: &str, heard: &[Heard]) -> Vec<String> {
    let of_worker = heard.iter().filter(|heard| heard.worker == worker);
    of_worker.map(|heard| word(&heard.message)).collect()
}

fn word(message: &From) -> String {
    match message {
        From::Heartbeat { .. } => "heartbeat".into(),
        From::Hello { weights: None } => "hello".into(),
        From::Hello { weights: Some(weights) } => match weights.pending {
            Some(pending) => format!("hello {} pending {pending}", weights.done),
            None => format!("hello {}", weights.done),
        },
        From::Loaded { .. } => "loaded".into(),
        From::StoreReady { .. } => "store".into(),
        From::Standing { step } => format!("standing {step}"),
        From::Ready { step } => format!("ready {step}"),
        From::KlReport { step, .. } => format!("sums {step}"),
        From::StepReport(report) => format!("report {}", report.step),
        From::CheckpointWritten { path, .. } | From::FinalWritten { path } => {
            format!("written {path}")
        }
        From::CheckpointFailed { step, .. } => format!("no checkpoint {step}"),
        From::Failure { kind, .. } => format!("failure {kind}"),
        From::Leave { reason } => format!("leave {reason}"),
    }
}
