//! Handing out the work of a pass.

use prospect_core::{Rank, ShardKind, WorkerId};
use prospect_proto::CoordinatorMessage as Message;

use super::Shell;
use crate::CoordinatorError;
use crate::plan::Pass;

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
}
