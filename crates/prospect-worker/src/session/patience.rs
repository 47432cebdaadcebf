//! How long a worker waits for the coordinator. The clock is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// How long a worker that is done waits for the coordinator's last word.
const LAST_WORD_WAIT: Duration = Duration::from_secs(30);
/// How long a worker that was asked to end waits until the run begins to end.
const LEAVE_GRACE: Duration = Duration::from_secs(25);

/// When to stop waiting, if ever. As long as the run ends in good order the
/// session and its heartbeats are the only bound: a last step and a checkpoint
/// take as long as they take.
#[derive(Debug, Default)]
pub(super) struct Patience {
    deadline: Option<Instant>,
    stage: Stage,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Stage {
    /// The run goes on.
    #[default]
    Working,
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
            self.deadline.get_or_insert(now + LEAVE_GRACE);
        }
    }

    /// The coordinator ends the run and still needs this worker.
    pub(super) fn run_is_ending(&mut self) {
        if self.stage == Stage::Working {
            self.stage = Stage::Ending;
            self.deadline = None;
        }
    }

    /// All work is done but for the coordinator's last word.
    pub(super) fn done(&mut self, now: Instant) {
        self.stage = Stage::Done;
        self.deadline = Some(now + LAST_WORD_WAIT);
    }

    /// There is nothing to wait for.
    pub(super) fn give_up(&mut self, now: Instant) {
        self.deadline = Some(now);
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
        assert_eq!(check(|patience, now| patience.give_up(now)), Some(0));
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
