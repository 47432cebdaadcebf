//! How far a trainer has come, for those who look on from other threads.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use prospect_core::{Step, StepPhase};

/// Step, phase and a count that grows with every piece of work. The three are read one by one: a
/// reader may see a phase with the step before it, and sees the right pair the next time.
#[derive(Debug, Default)]
pub struct Progress {
    step: AtomicU64,
    /// Place in [`StepPhase::ALL`].
    phase: AtomicU8,
    count: AtomicU64,
    #[cfg(test)]
    pub(crate) observer: std::sync::OnceLock<Observer>,
}

/// What a test does after each piece of work, on the thread that did it.
#[cfg(test)]
pub(crate) struct Observer(pub(crate) Box<dyn Fn(&Progress) + Send + Sync>);

impl Progress {
    /// The step that was worked on last, 0 before the first.
    pub fn step(&self) -> Step {
        Step(self.step.load(Ordering::Relaxed))
    }

    /// What is being done.
    pub fn phase(&self) -> StepPhase {
        StepPhase::ALL[usize::from(self.phase.load(Ordering::Relaxed))]
    }

    /// Pieces of work done since the start: blocks, microbatches, segments, phases, and tensors
    /// and pieces of files that are saved, also by a [`Snapshot`](crate::Snapshot) that another
    /// thread writes.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Says what is done from here on.
    pub fn set_phase(&self, phase: StepPhase) {
        let idx = StepPhase::ALL.iter().position(|&other| other == phase).unwrap_or_default();
        // Ten phases fit into a byte.
        self.phase.store(idx as u8, Ordering::Relaxed);
        self.tick();
    }

    /// Says that a piece of work is done.
    pub fn tick(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
        #[cfg(test)]
        if let Some(Observer(observe)) = self.observer.get() {
            observe(self);
        }
    }

    /// Says which step is worked on.
    pub(crate) fn set_step(&self, step: Step) {
        self.step.store(step.0, Ordering::Relaxed);
    }
}

#[cfg(test)]
impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Observer")
    }
}
