//! What is stale, what is a repeat, and what is said again.

use prospect_core::{Generation, Rank, Restore, Shard, ShardKind, Step, StepReport};
use prospect_proto::{CoordinatorMessage as To, ToWorker, WorkerMessage as From};

use super::super::inbox::{Admission, Inbox};
use super::super::outbox::Outbox;
use crate::device::PassId;

fn pass(step: u64, kind: ShardKind, eval_index: u32) -> PassId {
    PassId { step: Step(step), kind, eval_index }
}

fn shard(step: u64, kind: ShardKind, eval_index: u32) -> To {
    To::Shard(Box::new(Shard { step: Step(step), kind, eval_index, ..Shard::default() }))
}

fn train(step: u64) -> To {
    shard(step, ShardKind::Train, 0)
}

fn place(restore: Restore) -> To {
    To::Assignment { rank: Rank(0), world_size: 1, restore }
}

fn regroup() -> To {
    To::Regroup { committed: Step(0), reason: "worker w1 was lost".into() }
}

/// What becomes of these messages in a worker that joined generation 3.
fn check_inbox(messages: &[(u64, To)]) -> Vec<Admission> {
    let mut inbox = Inbox::new(Generation(3));
    let message = |(generation, message): &(u64, To)| ToWorker {
        generation: Generation(*generation),
        message: message.clone(),
    };
    messages.iter().map(|said| inbox.admit(&message(said))).collect()
}

#[test]
fn what_belongs_to_an_earlier_generation_is_stale() {
    use Admission::{Fresh, Repeated, RepeatedRegroup, Stale};
    let found = check_inbox(&[
        (2, train(1)),
        (3, train(1)),
        (4, regroup()),
        (4, regroup()),
        (3, To::Commit { step: Step(1) }),
        (4, place(Restore::Kept)),
        (4, place(Restore::Kept)),
        (4, train(1)),
        (3, To::Close),
    ]);
    let expected = [Stale, Fresh, Fresh, RepeatedRegroup, Stale, Fresh, Repeated, Fresh, Fresh];
    assert_eq!(found, expected);
}

#[test]
fn shards_count_once() {
    let evaluation = |eval_index| shard(2, ShardKind::Eval, eval_index);
    let finish = To::Finish { path: "final".into() };
    let found = check_inbox(&[
        (3, train(1)),
        (3, train(2)),
        (3, train(1)),
        (3, evaluation(0)),
        (3, evaluation(1)),
        (3, evaluation(0)),
        (3, train(3)),
        (3, train(2)),
        (3, finish.clone()),
        (3, finish),
    ]);
    let fresh = Admission::Fresh;
    let again = Admission::RepeatedShard;
    let expected = [
        fresh,
        fresh,
        again(pass(1, ShardKind::Train, 0)),
        fresh,
        fresh,
        again(pass(2, ShardKind::Eval, 0)),
        fresh,
        again(pass(2, ShardKind::Train, 0)),
        fresh,
        Admission::RepeatedFinish,
    ];
    assert_eq!(found, expected);
}

fn sums(step: u64, kind: ShardKind) -> From {
    From::KlReport { step: Step(step), kind, eval_index: 0, parts: Vec::new() }
}

fn report(step: u64) -> From {
    From::StepReport(StepReport { step: Step(step), ..StepReport::default() })
}

fn written(step: u64) -> From {
    let (path, manifest_sha256) = ("checkpoints/.staged".into(), "0".into());
    From::CheckpointWritten { step: Step(step), path, manifest_sha256 }
}

/// Which of the messages said in generation 3 are said again after these were heard.
fn check_outbox(said: &[From], heard: &[To]) -> Vec<From> {
    let mut outbox = Outbox::default();
    for message in said {
        outbox.keep(Some(Generation(3)), message, true);
    }
    for message in heard {
        outbox.heard(message);
    }
    let again = outbox.say_again();
    assert_eq!(outbox.say_again(), again, "said again on every session");
    again
}

#[test]
fn what_has_no_answer_is_said_again() {
    let said = [
        From::Standing { step: Step(1) },
        From::StoreReady { host: "h".into(), port: 1 },
        From::Ready { step: Step(1) },
        sums(2, ShardKind::Train),
        report(2),
        written(1),
    ];
    assert_eq!(check_outbox(&said, &[]), said);
    let point = To::ReferencePoint {
        step: Step(2),
        kind: ShardKind::Train,
        eval_index: 0,
        point: Default::default(),
    };
    let met = To::Rendezvous { host: "h".into(), port: 1, prefix: "g3".into() };
    assert_eq!(check_outbox(&said, &[place(Restore::Kept), met, train(2), point]), said[3..]);
    let commit = To::Commit { step: Step(2) };
    let durable = To::CheckpointDurable { step: Step(1) };
    let rest = check_outbox(&said, &[place(Restore::Kept), commit]);
    assert_eq!(rest, [said[1].clone(), written(1)]);
    assert_eq!(check_outbox(&said[3..], &[durable]), said[3..5]);
}

#[test]
fn an_evaluation_may_be_asked_for_until_the_next_step() {
    let said = [sums(2, ShardKind::Eval)];
    assert_eq!(check_outbox(&said, &[To::Commit { step: Step(2) }]), said);
    assert_eq!(check_outbox(&said, &[To::Commit { step: Step(3) }]), []);
}

#[test]
fn a_generation_ends_what_was_said_in_it() {
    let mut outbox = Outbox::default();
    outbox.keep(Some(Generation(3)), &report(2), true);
    outbox.keep(None, &written(1), true);
    outbox.keep(None, &From::Leave { reason: "SIGTERM".into() }, true);
    outbox.regroup(Generation(4));
    assert_eq!(outbox.say_again(), [written(1), From::Leave { reason: "SIGTERM".into() }]);
    // The steps that they were taken after are done again.
    outbox.heard(&place(Restore::Checkpoint { path: "checkpoints/step-000001".into() }));
    assert_eq!(outbox.say_again(), [From::Leave { reason: "SIGTERM".into() }]);
}

#[test]
fn a_failed_checkpoint_is_told_once() {
    let failed = From::CheckpointFailed { step: Step(1), num_retries: 0, message: "full".into() };
    let mut outbox = Outbox::default();
    outbox.keep(None, &failed, true);
    assert_eq!(outbox.say_again(), []);
    outbox.keep(None, &failed, false);
    assert_eq!(outbox.say_again(), [failed]);
    assert_eq!(outbox.say_again(), []);
}
