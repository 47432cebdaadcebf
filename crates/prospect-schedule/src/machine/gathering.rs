//! Who makes up the next world, and where its weights come from.

use std::cmp::Reverse;
use std::time::Duration;

use prospect_core::{Restore, Step, WorkerId};

use super::run::RunMachine;
use super::{Action, Member, Phase, ResumePoint, WorkerState};

/// How the next world comes about.
#[derive(Clone, Debug)]
pub(super) struct Gathering {
    /// Since when there is no world.
    pub(super) began: Duration,
    /// When the last worker came or went.
    pub(super) last_change: Duration,
    /// Workers with which the world forms at once.
    pub(super) wanted: u32,
    /// Whether the shell looks for a checkpoint.
    pub(super) is_searching: bool,
    /// Whether there is a newer checkpoint than when it began to look.
    pub(super) is_search_outdated: bool,
    /// What it found.
    pub(super) found: Option<Option<ResumePoint>>,
}

impl Gathering {
    pub(super) fn new(now: Duration, wanted: u32) -> Self {
        Self {
            began: now,
            last_change: now,
            wanted,
            is_searching: false,
            is_search_outdated: false,
            found: None,
        }
    }

    /// The same, begun at another time.
    pub(super) fn from(self, now: Duration) -> Self {
        Self { began: now, last_change: now, ..self }
    }
}

/// Where the next world stands.
enum Start {
    /// At the committed step, with weights from there.
    At(Restore),
    /// The shell has to find a checkpoint first.
    Search,
    /// The checkpoint that was found.
    Back(Option<ResumePoint>),
}

impl RunMachine {
    /// Forms the next world if those who shall make it up are there.
    pub(super) fn form_when_ready(&mut self) {
        let is_gathering = matches!(self.phase, Phase::Waiting | Phase::Recovering);
        if !is_gathering || self.adoption.is_some() {
            return;
        }
        if self.stop.is_some() && self.is_nothing_to_save() {
            return self.stop_here(self.pipeline.committed);
        }
        // Who survived is waited for, and so is whoever is away for a moment.
        let is_awaited = |member: &Member| {
            member.notes.asked_to_stand.is_some()
                || member.notes.has_weights && member.state == WorkerState::Away
        };
        if self.members.present().any(is_awaited) {
            return;
        }
        if self.stop.is_some() {
            return self.form_to_stop();
        }
        if !self.is_enough() {
            return;
        }
        let chosen = self.chosen();
        match self.start_of(&chosen) {
            Start::At(restore) => self.begin_generation(&chosen, restore),
            Start::Search => self.search(),
            Start::Back(point) => self.roll_back(point),
        }
    }

    /// Whether all that is left is to save the trained model.
    fn is_all_trained(&self) -> bool {
        let step = self.pipeline.committed;
        step.0 >= self.options.total_steps
            && (!self.options.evaluate_after(step) || self.pipeline.evaluated >= step)
    }

    /// Those who could form a world: the ones with the committed weights first, then in the order
    /// of ranks and of joining; no more than the run takes.
    fn chosen(&self) -> Vec<WorkerId> {
        let members = self.members.sorted();
        let mut chosen: Vec<&Member> =
            members.into_iter().filter(|m| self.may_take_part(m)).collect();
        chosen.sort_by_key(|member| Reverse(self.holds_commit(member)));
        chosen.truncate(self.options.max_workers as usize);
        chosen.into_iter().map(|member| member.worker.clone()).collect()
    }

    fn may_take_part(&self, member: &Member) -> bool {
        member.is_candidate() && (self.stop.is_some() || !member.notes.is_leaving)
    }

    /// Whether those who could form a world are enough, or all that can be waited for. Asked with
    /// every worker that comes, so nothing is sorted for it.
    fn is_enough(&self) -> bool {
        let Some(gathering) = &self.gathering else { return false };
        let candidates = self.members.present().filter(|m| self.may_take_part(m));
        if self.is_all_trained() {
            // Whoever has all of the model can save it and need not wait for others.
            if candidates.clone().any(|member| self.holds_commit(member)) {
                return true;
            }
        }
        let most = self.options.max_workers as usize;
        let count = candidates.take(most).count() as u32;
        let least = self.fewest();
        let waited = self.now.saturating_sub(gathering.last_change);
        count >= gathering.wanted.max(least)
            || (count >= least && waited >= self.options.replacement_wait)
    }

    /// Fewest workers that a world may have. Any one can save a model that it holds whole.
    fn fewest(&self) -> u32 {
        let is_one_enough = self.is_all_trained() && !self.options.sharded;
        if is_one_enough { 1 } else { self.options.min_workers }
    }

    /// Waits for no more workers if those who have come are enough for any world. They have a
    /// time of their own to form it.
    pub(super) fn form_with_fewest(&mut self) -> bool {
        let is_gathering = matches!(self.phase, Phase::Waiting | Phase::Recovering);
        if !is_gathering || self.chosen().len() < self.fewest() as usize {
            return false;
        }
        if let Some(gathering) = &mut self.gathering {
            (gathering.began, gathering.wanted) = (self.now, 0);
        }
        self.form_when_ready();
        true
    }

    fn stands_at_commit(&self, worker: &WorkerId) -> bool {
        self.members.get(worker).is_some_and(|member| self.holds_commit(member))
    }

    /// Whether a worker holds all of the committed weights. Without its world a rank of a sharded
    /// one has nothing to go on with.
    fn holds_commit(&self, member: &Member) -> bool {
        !self.options.sharded && member.notes.stands_at == Some(self.pipeline.committed)
    }

    /// Where the weights of these workers come from.
    fn start_of(&self, chosen: &[WorkerId]) -> Start {
        let committed = self.pipeline.committed;
        let standing = chosen.iter().filter(|worker| self.stands_at_commit(worker)).count();
        let resume = self.options.resume.as_ref().filter(|resume| resume.step == committed);
        match self.gathering.as_ref().and_then(|gathering| gathering.found.as_ref()) {
            _ if committed == Step(0) => Start::At(Restore::Initial),
            _ if standing == chosen.len() => Start::At(Restore::Kept),
            // The rank is known once the world is formed.
            _ if standing > 0 => Start::At(Restore::Peer { rank: prospect_core::Rank(0) }),
            Some(Some(point)) if point.step == committed => {
                Start::At(Restore::Checkpoint { path: point.path.clone() })
            }
            Some(point) => Start::Back(point.clone()),
            None => match resume.filter(|_| self.phase == Phase::Waiting) {
                Some(resume) => Start::At(Restore::Checkpoint { path: resume.path.clone() }),
                None => Start::Search,
            },
        }
    }

    /// Asks the shell for a checkpoint, unless it is about to have a newer one.
    fn search(&mut self) {
        let is_publishing = self.checkpoints.is_any_publishing();
        let Some(gathering) = self.gathering.as_mut() else { return };
        if !gathering.is_searching && !is_publishing {
            (gathering.is_searching, gathering.is_search_outdated) = (true, false);
            self.act(Action::FindRestorePoint);
        }
    }

    /// Forms a world only to save the committed step, if it is not saved and anyone has it.
    fn form_to_stop(&mut self) {
        let committed = self.pipeline.committed;
        if self.checkpoints.is_publishing(committed) {
            return;
        }
        let mut chosen = self.chosen();
        chosen.retain(|worker| self.stands_at_commit(worker));
        if chosen.is_empty() {
            self.stop_here(committed);
        } else {
            self.begin_generation(&chosen, Restore::Kept);
        }
    }

    /// Notes that someone came or went.
    pub(super) fn gathering_changed(&mut self) {
        let now = self.now;
        if let Some(gathering) = &mut self.gathering {
            gathering.last_change = now;
        }
    }
}
