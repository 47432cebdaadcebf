//! The mailbox and the exchange over it, without a device.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use prospect_core::{Generation, KlSums, PartKlSums, ReferencePoint, Shard, ShardKind, Step};
use prospect_proto::WorkerMessage;
use prospect_train::{ExchangeError, ReferencePointExchange as _};
use tokio::sync::mpsc;

use super::exchange::MailboxExchange;
use super::interrupt::{Interrupt, Interrupted};
use super::mailbox::Mailbox;
use super::runner::Voice;
use super::{Event, Order, PassId};
use crate::torch::{Backend, LibtorchError, ProcessGroup, TcpStore};

fn pass(step: u64) -> PassId {
    PassId { step: Step(step), kind: ShardKind::Train, eval_index: 0 }
}

fn point(raw: f64) -> ReferencePoint {
    ReferencePoint { z0: raw, raw, standard_error: 0.0, num_pairs: 1 }
}

fn regroup(generation: u64) -> Interrupt {
    Interrupt::Regroup { generation: Generation(generation), committed: Step(4) }
}

/// A voice of the first generation, and where it is heard.
fn voice() -> (Voice, mpsc::UnboundedReceiver<Event>) {
    let (events, heard) = mpsc::unbounded_channel();
    (Voice::new(Generation(1), events), heard)
}

/// What a wait gives that has begun before `wake` is called.
fn check<T: Send + 'static>(
    wait: impl FnOnce(&Mailbox) -> T + Send + 'static,
    wake: impl FnOnce(&Mailbox),
) -> T {
    let mailbox = Arc::new(Mailbox::default());
    let shared = Arc::clone(&mailbox);
    let waiting = thread::spawn(move || wait(&shared));
    wake(&mailbox);
    waiting.join().unwrap()
}

#[test]
fn repeats_of_earlier_points_are_passed_over() {
    let mailbox = Mailbox::default();
    for (step, raw) in [(1, 0.5), (1, 0.5), (2, 0.25)] {
        mailbox.point(pass(step), point(raw));
    }
    let (voice, _heard) = voice();
    let mut exchange = MailboxExchange { pass: pass(2), mailbox: &mailbox, voice: &voice };
    assert_eq!(exchange.wait().unwrap().raw, 0.25);
}

#[test]
fn an_interruption_ends_every_wait() {
    for interrupt in [regroup(2), Interrupt::Close, Interrupt::Cut] {
        let wake = |mailbox: &Mailbox| mailbox.interrupt(interrupt).give_up();
        assert_eq!(check(|mailbox| mailbox.next_order(false), wake), Err(Interrupted));
        assert_eq!(check(|mailbox| mailbox.wait_commit(Step(1)), wake), Err(Interrupted));
        assert_eq!(check(|mailbox| mailbox.take_interrupt(), wake), interrupt);
        let wait = |mailbox: &Mailbox| {
            let (voice, _heard) = voice();
            MailboxExchange { pass: pass(1), mailbox, voice: &voice }.wait()
        };
        assert!(matches!(check(wait, wake), Err(ExchangeError::Aborted { .. })));
        let wait = |mailbox: &Mailbox| {
            mailbox.begin_writing(Step(1));
            mailbox.wait_written()
        };
        assert_eq!(check(wait, wake), Err(Interrupted));
        let wait = |mailbox: &Mailbox| mailbox.wait_rendezvous(Generation(1));
        assert_eq!(check(wait, wake), Err(Interrupted));
        let wait = |mailbox: &Mailbox| mailbox.wait_formed().map(drop);
        assert_eq!(check(wait, wake), Err(Interrupted));
    }
}

#[test]
fn a_commit_counts_in_its_generation_only() {
    let mailbox = Mailbox::default();
    mailbox.commit(Step(5));
    assert_eq!(mailbox.wait_commit(Step(5)), Ok(()));
    mailbox.order(Generation(1), Order::Finish);
    mailbox.interrupt(regroup(2)).give_up();
    assert_eq!(mailbox.take_interrupt(), regroup(2));
    // The order of the old generation is gone; the commit came with it.
    mailbox.order(Generation(2), Order::Stop { reason: "SIGTERM".into(), num_retries: 0 });
    let order = Order::Stop { reason: "SIGTERM".into(), num_retries: 0 };
    assert_eq!(mailbox.next_order(false), Ok(Some((Generation(2), order))));
    mailbox.commit(Step(4));
    mailbox.interrupt(Interrupt::Cut).give_up();
    assert_eq!(mailbox.wait_commit(Step(5)), Err(Interrupted));
}

#[test]
fn an_end_is_not_taken_back() {
    let mailbox = Mailbox::default();
    mailbox.interrupt(Interrupt::Cut).give_up();
    mailbox.interrupt(regroup(2)).give_up();
    assert_eq!(mailbox.take_interrupt(), Interrupt::Cut);
    assert_eq!(mailbox.take_interrupt(), Interrupt::Cut);
}

#[test]
fn what_was_saved_before_a_step_back_counts_for_nothing() {
    let mailbox = Mailbox::default();
    mailbox.begin_writing(Step(6));
    mailbox.written(Some(Step(6)));
    mailbox.durable(Step(4));
    assert!(mailbox.is_saved(Step(6)) && mailbox.is_saved(Step(4)));
    assert!(!mailbox.is_saved(Step(5)));
    mailbox.set_taken_over(Some(Step(4)));
    assert!(!mailbox.is_saved(Step(6)) && mailbox.is_saved(Step(4)));
}

#[test]
fn a_checkpoint_that_is_owed_goes_before_the_next_order_once_none_is_written() {
    let mailbox = Mailbox::default();
    mailbox.order(Generation(1), Order::Finish);
    mailbox.order(Generation(1), Order::Finish);
    mailbox.begin_writing(Step(2));
    let order = Ok(Some((Generation(1), Order::Finish)));
    assert_eq!(mailbox.next_order(true), order);
    mailbox.written(Some(Step(2)));
    assert_eq!(mailbox.next_order(true), Ok(None));
    assert_eq!(mailbox.next_order(false), order);
    let waiting = |mailbox: &Mailbox| mailbox.next_order(true);
    assert_eq!(check(waiting, |mailbox| mailbox.written(None)), Ok(None));
}

#[test]
fn a_regroup_gives_up_the_first_collective() {
    let timeout = Duration::from_secs(20);
    let store = TcpStore::host("127.0.0.1", 0, timeout).unwrap();
    let group = ProcessGroup::new(Backend::Gloo, &store, "g1", 0, 1, timeout).unwrap();
    let mailbox = Mailbox::default();
    mailbox.begin_forming(Generation(1)).unwrap();
    assert!(!mailbox.meets(Generation(2), group.abort_handle()));
    assert!(mailbox.meets(Generation(1), group.abort_handle()));
    group.barrier().unwrap().wait().unwrap();
    mailbox.interrupt(regroup(2)).give_up();
    assert!(matches!(group.barrier(), Err(LibtorchError::Aborted { .. })));
    assert!(!mailbox.meets(Generation(1), group.abort_handle()));
    assert_eq!(mailbox.begin_forming(Generation(1)), Err(Interrupted));
}

#[test]
fn only_the_shard_of_the_next_step_is_seen_before_its_time() {
    let (voice, _heard) = voice();
    let mailbox = Mailbox::default();
    let mut exchange = MailboxExchange { pass: pass(3), mailbox: &mailbox, voice: &voice };
    let shard = |step, kind| Box::new(Shard { step: Step(step), kind, ..Shard::default() });
    for (generation, step, kind) in
        [(1, 3, ShardKind::Eval), (2, 4, ShardKind::Train), (1, 5, ShardKind::Train)]
    {
        mailbox.order(Generation(generation), Order::Shard(shard(step, kind)));
        assert_eq!(exchange.shard_after(Step(3)), None);
    }
    mailbox.order(Generation(1), Order::Shard(shard(4, ShardKind::Train)));
    for _ in 0..2 {
        assert_eq!(exchange.shard_after(Step(3)), Some(shard(4, ShardKind::Train)));
    }
    mailbox.interrupt(regroup(2)).give_up();
    assert_eq!(exchange.shard_after(Step(3)), None);
}

#[test]
fn sums_go_out_with_their_pass_and_generation() {
    let (voice, mut heard) = voice();
    let mailbox = Mailbox::default();
    let sums = KlSums { sum: 1.5, sum_of_squares: 2.25, count: 1 };
    let parts = vec![PartKlSums { part: 0, sums }];
    MailboxExchange { pass: pass(3), mailbox: &mailbox, voice: &voice }
        .submit(parts.clone())
        .unwrap();
    let Ok(Event::Say { generation, message }) = heard.try_recv() else {
        panic!("nothing was said")
    };
    assert_eq!(generation, Generation(1));
    let expected =
        WorkerMessage::KlReport { step: Step(3), kind: ShardKind::Train, eval_index: 0, parts };
    assert_eq!(message, expected);
}
