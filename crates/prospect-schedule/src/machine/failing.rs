//! A run fails, and says what a person can do about it.

use prospect_core::Step;

use super::run::RunMachine;
use super::{Action, FailureKind, Phase};

impl RunMachine {
    /// Ends the run by a failure. `what` names worker, rank and step; what to do is added.
    pub(super) fn fail(&mut self, kind: FailureKind, what: &str) {
        if self.phase.is_terminal() {
            return;
        }
        let reason = format!("{what}; {}", self.advice(kind));
        self.failure = Some(kind);
        self.act(Action::SendAbort { reason: reason.clone(), kind });
        self.enter(Phase::Failed, reason);
    }

    /// What a person can do about a failure.
    fn advice(&self, kind: FailureKind) -> String {
        let again = self.how_to_go_on();
        match kind {
            FailureKind::Configuration => format!("correct this, then {again}"),
            FailureKind::Corrupt => format!("restore or remove what is damaged, then {again}"),
            FailureKind::Storage => format!("make room or allow writing, then {again}"),
            FailureKind::PeerLost => again,
            FailureKind::NotFinite => format!(
                "lower train.learning_rate or leave out the rows that cause it, then {again}"
            ),
            FailureKind::Internal => format!("this is a defect to report; {again}"),
            FailureKind::NoProgress => format!("remove the cause, then {again}"),
        }
    }

    /// How the run is taken up again.
    pub(super) fn how_to_go_on(&self) -> String {
        match self.checkpoints.newest() {
            Step(0) => "start the run again: it begins at step 1, for there is no checkpoint \
                        yet"
            .into(),
            step => {
                format!("start the run again: it goes on from the checkpoint of step {step}")
            }
        }
    }
}
