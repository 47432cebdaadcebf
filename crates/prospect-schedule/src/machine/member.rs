//! One worker as the run sees it.

use std::collections::VecDeque;
use std::time::Duration;

use prospect_core::{Generation, Incarnation, Rank, Step, StepPhase, WorkerId};

use super::WorkerState;

/// One worker as the run sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its name.
    pub worker: WorkerId,
    /// Which process of that name.
    pub incarnation: Incarnation,
    /// Rank that its environment gives it.
    pub preferred_rank: Option<Rank>,
    /// Its rank in the world, or in the last one that it was part of.
    pub rank: Option<Rank>,
    /// Its state.
    pub state: WorkerState,
    /// Whether its session stands.
    pub has_session: bool,
    /// Step that it was last known to work on.
    pub step: Step,
    /// What it does there, as its heartbeats tell.
    pub phase: StepPhase,
    /// When it was last heard, on the clock that events are given with.
    pub last_heard: Duration,
    /// Highest memory use that it reported.
    pub peak_memory_bytes: u64,
    /// Its time for computing over the median of all ranks, where enough steps were done.
    pub slowdown: Option<f64>,
    /// Whether it holds the others up.
    pub is_straggler: bool,
    /// What the machine keeps in mind about it.
    pub(super) notes: Notes,
}

/// What the machine keeps in mind about a worker.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Notes {
    /// Place in the order of joining.
    pub(super) joined: u64,
    /// Generation that it was told of when it joined.
    pub(super) joined_in: Generation,
    /// State that it goes back to when its session stands again.
    pub(super) before_away: Option<WorkerState>,
    /// Since when its session is gone.
    pub(super) away_since: Option<Duration>,
    /// How its session ended, in words.
    pub(super) away_cause: String,
    /// Whether it holds weights of this run or has been told a place, as far as is known.
    pub(super) has_weights: bool,
    /// Whether those are of an attempt that was given up.
    pub(super) is_outdated: bool,
    /// Whether they ever were: it may still write checkpoints of them.
    pub(super) was_outdated: bool,
    /// Since when it is asked where it stands.
    pub(super) asked_to_stand: Option<Duration>,
    /// Step of its weights, where it stands by.
    pub(super) stands_at: Option<Step>,
    /// Whether it wants to go away in good order.
    pub(super) is_leaving: bool,
    /// The last progress number of its heartbeats.
    pub(super) progress: u64,
    /// When it was last seen to get on.
    pub(super) active_at: Duration,
    /// Seconds of computing of its last steps.
    pub(super) seconds: VecDeque<f64>,
}

impl Member {
    pub(super) fn new(
        worker: WorkerId,
        incarnation: Incarnation,
        preferred_rank: Option<Rank>,
        now: Duration,
    ) -> Self {
        Self {
            worker,
            incarnation,
            preferred_rank,
            rank: None,
            state: WorkerState::Joined,
            has_session: false,
            step: Step(0),
            phase: StepPhase::default(),
            last_heard: now,
            peak_memory_bytes: 0,
            slowdown: None,
            is_straggler: false,
            notes: Notes { active_at: now, ..Notes::default() },
        }
    }

    /// The worker in words, for instance "worker pod-1 (rank 1)".
    pub fn describe(&self) -> String {
        match self.rank {
            Some(rank) => format!("worker {} (rank {rank})", self.worker),
            None => format!("worker {}", self.worker),
        }
    }

    /// Whether it is still there.
    pub fn is_present(&self) -> bool {
        !matches!(self.state, WorkerState::Left | WorkerState::Lost)
    }

    /// Whether it could take a place in a world that forms.
    pub(super) fn is_candidate(&self) -> bool {
        self.has_session && self.state == WorkerState::Loaded && self.notes.asked_to_stand.is_none()
    }

    /// Its state, that of the time before its session went away included.
    pub(super) fn stage(&self) -> WorkerState {
        match self.state {
            WorkerState::Away => self.notes.before_away.unwrap_or_default(),
            state => state,
        }
    }

    /// Moves it on, also behind the veil of an absence.
    pub(super) fn set_stage(&mut self, stage: WorkerState) {
        if self.state == WorkerState::Away {
            self.notes.before_away = Some(stage);
        } else {
            self.state = stage;
        }
    }

    /// Its session is gone.
    pub(super) fn goes_away(&mut self, now: Duration, cause: &str) {
        self.has_session = false;
        cause.clone_into(&mut self.notes.away_cause);
        if self.state != WorkerState::Away {
            self.notes.before_away = Some(self.state);
            self.notes.away_since = Some(now);
            self.state = WorkerState::Away;
        }
    }

    /// Its session stands.
    pub(super) fn comes_back(&mut self, now: Duration) {
        self.has_session = true;
        self.last_heard = now;
        self.notes.away_since = None;
        if let Some(state) = self.notes.before_away.take() {
            self.state = state;
        }
    }

    /// Its weights are of an attempt that was given up.
    pub(super) fn outdate(&mut self) {
        self.notes.is_outdated = true;
        self.notes.was_outdated = true;
    }

    /// It is gone for good.
    pub(super) fn ends_as(&mut self, state: WorkerState) {
        self.state = state;
        self.has_session = false;
        self.is_straggler = false;
        self.notes.asked_to_stand = None;
        self.notes.stands_at = None;
    }
}
