//! Checkpoints of a sharded world, in which every rank writes its part: all ranks begin the same
//! ones, and decide by what all of them know.

use std::time::Duration;

use prospect_core::StepPhase;

use super::runner::Break;
use super::world::World;
use crate::WorkerError;

/// How often ranks that wait for each other's files say that they do.
const WORD_INTERVAL: Duration = Duration::from_secs(1);

impl World {
    /// Begins the checkpoint of the step that all ranks of a sharded world have just done, unless one
    /// of them is writing an earlier one.
    pub(super) fn begin_or_skip_together(&mut self, is_rank_0: bool) -> Result<(), Break> {
        self.set_phase(StepPhase::Saving);
        let writing = self.mailbox.writing();
        if !self.trainer.any(writing.is_some())? {
            return Ok(self.begin_together(0)?);
        }
        // The coordinator is told, and orders it again if it is the last one.
        self.begun_together = (self.trainer.done(), 0);
        if is_rank_0 {
            self.saving.skip(self.trainer.done(), writing);
        }
        Ok(())
    }

    fn begin_together(&mut self, num_retries: u32) -> Result<(), WorkerError> {
        self.begun_together = (self.trainer.done(), num_retries);
        self.saving.begin_together(&self.trainer, self.voice.generation(), num_retries)
    }

    /// Waits until no rank of a sharded world is writing.
    pub(super) fn wait_written_together(&mut self) -> Result<(), Break> {
        self.set_phase(StepPhase::Saving);
        // A collective may not take as long as a checkpoint.
        while self.trainer.any(self.mailbox.writing().is_some())? {
            self.mailbox.wait_written_for(WORD_INTERVAL)?;
        }
        Ok(())
    }

    /// Sees that a checkpoint of the last step of a sharded world lies on disk, if that can be done:
    /// one that was begun is begun again if the coordinator, which has been told that it failed, has
    /// ordered it under another number.
    pub(super) fn save_last_step_together(
        &mut self,
        num_retries: u32,
        is_rank_0: bool,
    ) -> Result<(), Break> {
        self.set_phase(StepPhase::Saving);
        let done = self.trainer.done();
        // The coordinator may end the run as soon as it has what it waits for, so ranks that asked
        // each other what has become of it would be left waiting. All know what they were told.
        if self.begun_together != (done, num_retries) {
            self.wait_written_together()?;
            self.begin_together(num_retries)?;
            self.mailbox.wait_written_or_stop()?;
            return Ok(());
        }
        let is_at_rest = self.mailbox.wait_written_or_stop()?;
        if is_at_rest && is_rank_0 && !self.mailbox.is_saved(done) {
            // The order may have come again because nobody has heard of that.
            self.saving.say_failed(done, num_retries);
        }
        Ok(())
    }
}
