//! Handing out the work of a pass, and keeping what it found out about the reference.

use prospect_core::{Rank, ReferenceValue, ShardKind, Step, WorkerId};
use prospect_proto::CoordinatorMessage as Message;

use super::Shell;
use crate::CoordinatorError;
use crate::plan::Pass;
use crate::records::{Domain, SequenceRows};

impl Shell {
    /// Plans a pass and sends every rank its shard, or the one worker that is named.
    pub(super) async fn send_shards(
        &mut self,
        pass: Pass,
        checkpoint_after: bool,
        to: Option<WorkerId>,
    ) -> Result<(), CoordinatorError> {
        let Pass { step, kind, .. } = pass;
        let planned = self.plans.take(pass, self.files.steps.cache.as_ref()).await?;
        if planned.num_unpaired > 0 && !self.inner.warned_of_unpaired_rows {
            self.inner.warned_of_unpaired_rows = true;
            let message = format!(
                "{} rows of this batch have no mismatched pair: all other rows share their prompt or their completion",
                planned.num_unpaired
            );
            self.note("unpaired_rows", step, &message)?;
        }
        if kind == ShardKind::Train {
            self.inner.batches.insert(step, planned.batch.clone());
        }
        for (rank, mut shard) in (0..).map(Rank).zip(planned.into_shards()) {
            shard.checkpoint_after = checkpoint_after;
            let worker = self.machine.member_of_rank(rank).map(|member| member.worker.clone());
            let is_meant = |worker: &WorkerId| to.as_ref().is_none_or(|to| to == worker);
            if let Some(worker) = worker.filter(is_meant) {
                self.send(&worker, Message::Shard(Box::new(shard)));
            }
        }
        Ok(())
    }

    /// Keeps what workers computed under the reference, for later plans and for other runs.
    pub(super) fn keep_reference_values(
        &mut self,
        domain: Domain,
        values: &[ReferenceValue],
        step: Step,
    ) -> Result<(), CoordinatorError> {
        let Some(cache) = &mut self.files.steps.cache else { return Ok(()) };
        cache.add(domain, values, step)?;
        let Some(shared) = &mut self.inner.shared else { return Ok(()) };
        let planner = self.plans.planner();
        let keyed = values.iter().filter_map(|value| {
            let (prompt, completion) = (value.prompt_row, value.completion_row);
            let sequence = planner.sequence(SequenceRows { domain, prompt, completion })?;
            Some((shared.scorer().key(&sequence), value.log_prob))
        });
        let keyed: Vec<_> = keyed.collect();
        let Err(error) = shared.add(keyed) else { return Ok(()) };
        // A run does not fail for the want of other runs.
        let message = format!(
            "{:?} cannot be written: {error}; other runs compute these values again",
            shared.path()
        );
        self.inner.shared = None;
        self.note("reference_not_shared", step, &message)
    }
}
