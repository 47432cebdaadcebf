//! What may be asked about a run.

use prospect_core::{ExitCode, Generation, Rank, Step, WorkerId};

use super::{FailureKind, Member, Phase, RunMachine};

impl RunMachine {
    /// The phase.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Why the run is in this phase, in words for a person.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// How the process is to exit; absent while the run goes on.
    pub fn exit_code(&self) -> Option<ExitCode> {
        match self.phase {
            Phase::Complete => Some(ExitCode::Complete),
            Phase::Stopped => Some(ExitCode::Preempted),
            Phase::Failed => self.failure.map(FailureKind::exit_code),
            _ => None,
        }
    }

    /// Last step that was committed, 0 before the first.
    pub fn committed_step(&self) -> Step {
        self.pipeline.committed
    }

    /// Steps of the whole run.
    pub fn total_steps(&self) -> u64 {
        self.options.total_steps
    }

    /// Step of the newest durable checkpoint, 0 for none.
    pub fn checkpoint_step(&self) -> Step {
        self.checkpoints.newest()
    }

    /// Incarnation of the world.
    pub fn generation(&self) -> Generation {
        self.world.generation
    }

    /// Number of the attempt, from 1; it grows when the run is rolled back.
    pub fn attempt(&self) -> u64 {
        self.world.attempt
    }

    /// Ranks in the world, or in the last one that was formed; what the run aims at before the
    /// first.
    pub fn world_size(&self) -> u32 {
        self.world.size
    }

    /// Parts of a global batch in this world.
    pub fn num_parts(&self) -> u32 {
        self.options.num_parts(self.world.size)
    }

    /// Workers that were lost.
    pub fn num_losses(&self) -> u64 {
        self.losses.count
    }

    /// Checkpoints that failed since the last one that became durable.
    pub fn num_failed_checkpoints(&self) -> u32 {
        self.checkpoints.num_failed
    }

    /// How often the world was broken up without getting further in between.
    pub fn failures_without_progress(&self) -> u32 {
        self.losses.without_progress
    }

    /// The workers, by rank where they have one, in the order of joining otherwise.
    pub fn members(&self) -> Vec<&Member> {
        self.members.sorted()
    }

    /// A worker by name.
    pub fn member(&self, worker: &WorkerId) -> Option<&Member> {
        self.members.get(worker)
    }

    /// The worker of a rank of the world.
    pub fn member_of_rank(&self, rank: Rank) -> Option<&Member> {
        self.members.of_rank(rank)
    }
}
