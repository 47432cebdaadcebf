//! The exchange over channels, without a device.

use std::thread;

use prospect_core::{KlSums, ReferencePoint, ShardKind, Step};
use prospect_proto::WorkerMessage;
use prospect_train::{ExchangeError, ReferencePointExchange as _};
use tokio::sync::mpsc;

use super::exchange::{ChannelExchange, Points};
use super::{Event, PassId};

fn pass(step: u64) -> PassId {
    PassId { step: Step(step), kind: ShardKind::Train, eval_index: 0 }
}

fn point(raw: f64) -> ReferencePoint {
    ReferencePoint { z0: raw, raw, standard_error: 0.0, num_pairs: 1 }
}

/// Waits for the point of step 2 after these points have come.
fn check(points: &[(u64, f64)]) -> Result<f64, ExchangeError> {
    let (sender, queue) = mpsc::unbounded_channel();
    for &(step, raw) in points {
        sender.send((pass(step), point(raw))).unwrap();
    }
    drop(sender);
    let (events, _heard) = mpsc::unbounded_channel();
    let mut points = Points::new(queue);
    let mut exchange = ChannelExchange { pass: pass(2), points: &mut points, events: &events };
    exchange.wait().map(|point| point.raw)
}

#[test]
fn repeats_of_earlier_points_are_passed_over() {
    assert_eq!(check(&[(1, 0.5), (1, 0.5), (2, 0.25)]).unwrap(), 0.25);
}

#[test]
fn a_wait_ends_when_the_session_does() {
    assert!(matches!(check(&[(1, 0.5)]), Err(ExchangeError::Closed { .. })));
}

#[test]
fn a_wait_that_is_under_way_ends_when_the_session_does() {
    let (sender, queue) = mpsc::unbounded_channel();
    let waiting = thread::spawn(move || {
        let (events, _heard) = mpsc::unbounded_channel();
        let mut points = Points::new(queue);
        ChannelExchange { pass: pass(1), points: &mut points, events: &events }.wait()
    });
    drop(sender);
    assert!(matches!(waiting.join().unwrap(), Err(ExchangeError::Closed { .. })));
}

#[test]
fn sums_go_out_with_their_pass() {
    let (_sender, queue) = mpsc::unbounded_channel();
    let (events, mut heard) = mpsc::unbounded_channel();
    let mut points = Points::new(queue);
    let sums = KlSums { sum: 1.5, sum_of_squares: 2.25, count: 1 };
    ChannelExchange { pass: pass(3), points: &mut points, events: &events }.submit(sums).unwrap();
    let Ok(Event::Say(message)) = heard.try_recv() else { panic!("nothing was said") };
    let expected =
        WorkerMessage::KlReport { step: Step(3), kind: ShardKind::Train, eval_index: 0, sums };
    assert_eq!(message, expected);
}
