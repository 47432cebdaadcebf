//! How long a worker waits for the coordinator. The clock is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// How long a worker that is done waits for the coordinator's last word.
const LAST_WORD_WAIT: Duration = Duration::from_secs(30);
/// How long a worker that was asked to end waits, without anything to do, until it is let go.
const LEAVE_GRACE: Duration = Duration::from_secs(25);

/// When to stop waiting, if ever. As long as the run ends in good order the
/// session and its heartbeats are the only bound: a last step and a checkpoint
/// take as long as they take.
#[derive(Debug, Default)]
pub(super) struct Patience {
    deadline: Option<Instant>,
    stage: Stage,
    /// How far the work had come when it was last looked at.
    progress: u64,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Stage {
    /// The run goes on.
    #[default]
    Working,
    /// The run goes on, and this process shall end.
    Leaving,
    /// The coordinator ends the run.
    Ending,
    /// Nothing is left to do here.
    Done,
}

impl Patience {
    /// When to stop waiting.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// This process shall end, and the coordinator was told.
    pub(super) fn asked_to_end(&mut self, now: Instant) {
        if self.stage == Stage::Working {
            self.stage = Stage::Leaving;
            self.deadline = Some(now + LEAVE_GRACE);
        }
    }

    /// The work has come so far: a step that is under way is not waited for in vain.
    pub(super) fn progressed(&mut self, progress: u64, now: Instant) {
        if self.stage == Stage::Leaving && progress != self.progress {
            self.deadline = Some(now + LEAVE_GRACE);
        }
        self.progress = progress;
    }

    /// The coordinator ends the run and still needs this worker.
    pub(super) fn run_is_ending(&mut self) {
        if matches!(self.stage, Stage::Working | Stage::Leaving) {
            self.stage = Stage::Ending;
            self.deadline = None;
        }
    }

    /// All work is done but for the coordinator's last word.
    pub(super) fn done(&mut self, now: Instant) {
        self.stage = Stage::Done;
        self.deadline = Some(now + LAST_WORD_WAIT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds until the waiting ends.
    fn check(happens: impl Fn(&mut Patience, Instant)) -> Option<u64> {
        let now = Instant::now();
        let mut patience = Patience::default();
        happens(&mut patience, now);
        patience.deadline().map(|deadline| (deadline - now).as_secs())
    }

    #[test]
    fn a_worker_that_is_asked_to_end_waits_a_bounded_time_for_the_stop() {
        assert_eq!(check(|_, _| ()), None);
        assert_eq!(check(|patience, now| patience.asked_to_end(now)), Some(25));
    }

    #[test]
    fn a_worker_that_still_computes_is_not_waiting_in_vain() {
        let later = |progress| {
            move |patience: &mut Patience, now| {
                patience.progressed(7, now);
                patience.asked_to_end(now);
                patience.progressed(progress, now + Duration::from_secs(9));
            }
        };
        assert_eq!(check(later(7)), Some(25));
        assert_eq!(check(later(8)), Some(34));
    }

    #[test]
    fn a_stop_gives_the_last_steps_and_the_checkpoint_the_time_they_take() {
        let asked_first = |patience: &mut Patience, now| {
            patience.asked_to_end(now);
            patience.run_is_ending();
        };
        assert_eq!(check(asked_first), None);
        let stopped_first = |patience: &mut Patience, now| {
            patience.run_is_ending();
            patience.asked_to_end(now);
        };
        assert_eq!(check(stopped_first), None);
    }

    #[test]
    fn a_worker_that_is_done_waits_a_bounded_time_for_the_last_word() {
        let done = |patience: &mut Patience, now| {
            patience.run_is_ending();
            patience.done(now);
            patience.asked_to_end(now + Duration::from_secs(9));
            patience.run_is_ending();
        };
        assert_eq!(check(done), Some(30));
    }
}
