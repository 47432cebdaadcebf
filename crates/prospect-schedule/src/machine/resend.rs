//! A worker that comes back is told what it may have missed.

use prospect_core::{Step, WorkerId};

use super::collect::PassKey;
use super::run::RunMachine;
use super::{Action, Phase, WorkerState};

impl RunMachine {
    /// Tells a worker of the world where it is.
    pub(super) fn resend(&mut self, worker: &WorkerId) {
        let Some(member) = self.members.get(worker) else { return };
        let (to, stage) = (Some(worker.clone()), member.stage());
        if self.phase == Phase::Forming {
            if let Some(rank) = member.rank.filter(|_| stage == WorkerState::Forming) {
                let (worker, world_size) = (worker.clone(), self.world.size);
                let restore = self.world.restore.clone();
                self.act(Action::Assign { worker, rank, world_size, restore });
                self.announce_store(to);
            }
            return;
        }
        if !self.is_at_work() {
            return;
        }
        if self.pipeline.committed > Step(0) {
            self.act(Action::SendCommit { step: self.pipeline.committed, to: to.clone() });
        }
        let in_flight: Vec<PassKey> = self.pipeline.in_flight().collect();
        for key in in_flight {
            self.send_shard(key, to.clone());
        }
        self.resend_points(to.clone());
        if self.phase == Phase::Finishing {
            self.send_finish(to);
        } else {
            self.send_stop(to);
        }
    }

    /// Sends the reference points of the passes in flight.
    pub(super) fn resend_points(&mut self, to: Option<WorkerId>) {
        let in_flight: Vec<PassKey> = self.pipeline.in_flight().collect();
        for PassKey { step, kind, eval_index } in in_flight {
            let pass = self.passes.get(&PassKey { step, kind, eval_index });
            if let Some(point) = pass.and_then(|pass| pass.point()) {
                let to = to.clone();
                self.act(Action::SendReferencePoint { step, kind, eval_index, point, to });
            }
        }
    }
}
