use std::thread::sleep;
use std::time::Duration;

use prospect_core::PhaseSeconds;
use prospect_libtorch::ensure_cuda_loaded;
use tch::Device;

use super::{Clock, Phase};

const SHORT: Duration = Duration::from_millis(5);

/// A clock for each device there is.
fn check(body: impl Fn(Clock)) {
    let cuda = ensure_cuda_loaded().then_some(Device::Cuda(0));
    [Device::Cpu].into_iter().chain(cuda).for_each(|device| body(Clock::new(device)));
}

#[test]
fn phases_are_added_and_make_up_the_total() {
    check(|clock| {
        clock.lap(Phase::Commit).unwrap();
        for phase in [Phase::Scoring, Phase::ForwardBackward, Phase::Scoring] {
            sleep(SHORT);
            clock.lap(phase).unwrap();
        }
        let seconds = clock.read().unwrap();
        let short = SHORT.as_secs_f64();
        assert!(seconds.scoring >= 2.0 * short && seconds.forward_backward >= short);
        assert!((seconds.total - seconds.scoring - seconds.forward_backward).abs() < 1e-6);
        assert_eq!((seconds.commit, seconds.optimizer), (0.0, 0.0), "it did not run before");
        // The next reading goes on from where this one ended.
        sleep(SHORT);
        clock.lap(Phase::Commit).unwrap();
        let seconds = clock.read().unwrap();
        assert!(seconds.commit >= short);
        assert_eq!((seconds.total, seconds.scoring), (seconds.commit, 0.0));
    });
}

#[test]
fn what_happens_while_the_clock_stands_still_belongs_to_no_phase() {
    check(|mut clock| {
        clock.lap(Phase::Scoring).unwrap();
        clock.stop();
        sleep(SHORT);
        clock.lap(Phase::Commit).unwrap();
        assert_eq!(clock.read().unwrap(), PhaseSeconds::default());
        clock.lap(Phase::Scoring).unwrap();
        clock.reset();
        assert_eq!(clock.read().unwrap(), PhaseSeconds::default());
    });
}
