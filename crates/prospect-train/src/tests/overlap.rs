//! What a step waits for is under way while the device computes. Each test holds one side until the
//! other has come as far as it must: a step that did one after the other would not end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use prospect_core::{Mode, PartKlSums, PhaseSeconds, ReferencePoint, ShardPart, StepPhase};

use super::sharded::mode_config;
use super::support::{alone, config, shard, step, world};
use crate::progress::Observer;
use crate::{ExchangeError, Progress, ReferencePointExchange, Trainer};

/// How long one side is held before the test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A reference point that sets out only when the policy's forward pass was seen.
struct SlowExchange {
    progress: Arc<Progress>,
    num_segments: u64,
    under_way: Option<JoinHandle<Result<ReferencePoint, ExchangeError>>>,
}

impl ReferencePointExchange for SlowExchange {
    fn submit(&mut self, _: Vec<PartKlSums>) -> Result<(), ExchangeError> {
        // Every segment, and the phase before them.
        let seen = self.progress.count() + 1 + self.num_segments;
        let progress = Arc::clone(&self.progress);
        self.under_way = Some(thread::spawn(move || {
            let deadline = Instant::now() + PATIENCE;
            while progress.count() < seen {
                if Instant::now() > deadline {
                    let reason = "nobody computed meanwhile".to_owned();
                    return Err(ExchangeError::Closed { reason });
                }
                thread::sleep(Duration::from_millis(1));
            }
            Ok(ReferencePoint::default())
        }));
        Ok(())
    }

    fn wait(&mut self) -> Result<ReferencePoint, ExchangeError> {
        self.under_way.take().unwrap().join().unwrap()
    }
}

#[test]
fn the_policy_goes_forward_while_the_reference_point_is_on_its_way() {
    alone(&config("smollm2", "llama2"), |trainer, _| {
        let num_segments = trainer.policy().num_segments() as u64;
        let progress = trainer.progress();
        let mut exchange = SlowExchange { progress, num_segments, under_way: None };
        for number in 1..=2 {
            step(trainer, &shard(number, 32, (0, 1)), &mut exchange).unwrap();
        }
    });
}

/// Does something after each piece of work of a trainer.
fn observe(trainer: &Trainer, observer: impl Fn(&Progress) + Send + Sync + 'static) {
    trainer.progress().observer.set(Observer(Box::new(observer))).unwrap();
}

/// Tells a rank when pieces of work behind the reference point are done: 1 is the phase that begins,
/// 2 the head, and so on to the first block.
fn observe_backward(trainer: &Trainer, done: impl Fn(u64) + Send + Sync + 'static) {
    let ticks = AtomicU64::new(0);
    observe(trainer, move |progress| match progress.phase() {
        StepPhase::ReferencePoint => ticks.store(1, Ordering::Relaxed),
        StepPhase::ForwardBackward if ticks.load(Ordering::Relaxed) > 0 => {
            done(ticks.fetch_add(1, Ordering::Relaxed));
        }
        _ => ticks.store(0, Ordering::Relaxed),
    });
}

#[test]
fn gradients_are_on_their_way_before_the_backward_pass_is_over() {
    let (sender, receiver) = mpsc::channel();
    let (sender, receiver) = (Mutex::new(Some(sender)), Mutex::new(Some(receiver)));
    let outcomes = world(2, &config("smollm2", "llama2"), |rank, trainer, exchange| {
        let mut mine = shard(1, 1000, (0, 1));
        let was_held = Arc::new(AtomicU64::new(0));
        if rank == 0 {
            // Stands still behind its last block, in front of its embedding.
            let num_blocks = trainer.policy().config().num_layers as u64;
            let receiver = Mutex::new(receiver.lock().unwrap().take().unwrap());
            let was_held = Arc::clone(&was_held);
            observe_backward(trainer, move |tick| {
                if tick == 2 + num_blocks {
                    was_held.fetch_add(1, Ordering::Relaxed);
                    let arrived = receiver.lock().unwrap().recv_timeout(PATIENCE);
                    arrived.expect("a sum with this rank's gradients arrived at the other");
                }
            });
        } else {
            // Has nothing to compute, and tells when the first sum is there.
            mine.parts = vec![ShardPart { part: 1, ..ShardPart::default() }];
            let sender = sender.lock().unwrap().take().unwrap();
            let (sender, ticks) = (Mutex::new(sender), AtomicU64::new(0));
            observe(trainer, move |progress| {
                let is_waiting = progress.phase() == StepPhase::AllReduce;
                // The first is the phase itself.
                if is_waiting && ticks.fetch_add(1, Ordering::Relaxed) == 1 {
                    sender.lock().unwrap().send(()).unwrap();
                }
            });
        }
        step(trainer, &mine, exchange).unwrap();
        was_held.load(Ordering::Relaxed)
    });
    assert_eq!(outcomes, [1, 0]);
}

#[test]
fn waits_for_sums_in_the_middle_of_a_backward_pass_are_told() {
    const HOLD: Duration = Duration::from_millis(50);
    const STEPS: u64 = 3;
    let (sender, receiver) = mpsc::channel();
    let (sender, receiver) = (Mutex::new(Some(sender)), Mutex::new(Some(receiver)));
    let config = mode_config(Mode::FullySharded, "smollm2");
    let seconds = world(2, &config, |rank, trainer, exchange| {
        let num_blocks = trainer.policy().config().num_layers as u64;
        if rank == 0 {
            // Stands still behind its last block, whose sum the other then waits for.
            let receiver = Mutex::new(receiver.lock().unwrap().take().unwrap());
            observe_backward(trainer, move |tick| {
                if tick == 3 {
                    receiver.lock().unwrap().recv_timeout(PATIENCE).unwrap();
                    thread::sleep(HOLD);
                }
            });
        } else {
            let sender = Mutex::new(sender.lock().unwrap().take().unwrap());
            observe_backward(trainer, move |tick| {
                if tick == 2 + num_blocks {
                    sender.lock().unwrap().send(()).unwrap();
                }
            });
        }
        let steps = 1..=STEPS;
        let reports = steps.map(|number| {
            step(trainer, &shard(number, 1000, (rank, 2)), exchange).unwrap().phase_seconds
        });
        reports.collect::<Vec<PhaseSeconds>>()
    });
    // The first of them that a busy machine has not spoilt is enough.
    let longest = seconds[1].iter().map(|seconds| seconds.all_reduce).fold(0.0, f64::max);
    assert!(longest > HOLD.as_secs_f64() / 2.0, "{seconds:?}");
    for seconds in seconds.iter().flatten() {
        let computing = seconds.scoring + seconds.forward_backward + seconds.optimizer;
        let sum = computing + seconds.reference_point + seconds.all_reduce + seconds.commit;
        assert!((sum - seconds.total).abs() < 1e-9, "{seconds:?}");
    }
}

#[test]
fn the_time_between_steps_is_a_part_of_the_next_step() {
    const SHORT: Duration = Duration::from_millis(10);
    alone(&config("smollm2", "llama2"), |trainer, exchange| {
        let first = trainer.step(&shard(1, 32, (0, 1)), exchange).unwrap().phase_seconds;
        assert_eq!(first.commit, 0.0, "there was no step before it");
        // Until the commit, and until the next shard.
        thread::sleep(SHORT);
        trainer.apply(shard(1, 32, (0, 1)).step).unwrap();
        thread::sleep(SHORT);
        let second = trainer.step(&shard(2, 32, (0, 1)), exchange).unwrap().phase_seconds;
        assert!(second.commit >= 2.0 * SHORT.as_secs_f64());
        assert!(second.total >= second.commit + second.optimizer);
    });
}
