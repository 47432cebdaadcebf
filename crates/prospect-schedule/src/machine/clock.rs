//! What happens because time has passed, and signs of life.

use std::time::Duration;

use prospect_core::{Step, StepPhase, WorkerId};

use super::run::RunMachine;
use super::sessions::AWAY_TIMEOUT;
use super::text::workers;
use super::{FailureKind, Member, Phase, WorkerState};

impl RunMachine {
    pub(super) fn heartbeat(
        &mut self,
        worker: &WorkerId,
        step: Step,
        phase: StepPhase,
        progress: u64,
    ) {
        let now = self.now;
        let Some(member) = self.members.get_mut(worker).filter(|m| m.is_present()) else { return };
        member.last_heard = now;
        if (member.step, member.phase, member.notes.progress) != (step, phase, progress) {
            member.notes.active_at = now;
        }
        (member.step, member.phase, member.notes.progress) = (step, phase, progress);
    }

    pub(super) fn tick(&mut self) {
        self.check_adoption();
        self.lose_the_silent();
        self.check_join_timeout();
        if !self.phase.is_terminal() {
            self.check_suspicion();
            self.watch();
            self.watch_writer();
            self.form_when_ready();
            self.check_end();
        }
    }

    fn lose_the_silent(&mut self) {
        // As a rule there are none, and nothing has to be sorted.
        if self.members.present().all(|member| self.silence(member).is_none()) {
            return;
        }
        let gone: Vec<(WorkerId, String)> = self
            .members
            .sorted()
            .into_iter()
            .filter_map(|member| Some((member.worker.clone(), self.silence(member)?)))
            .collect();
        for (worker, cause) in gone {
            self.lose(&worker, &cause);
        }
    }

    /// Why a worker counts as lost, if it does.
    fn silence(&self, member: &Member) -> Option<String> {
        // The workers of an earlier coordinator have a time of their own to come back.
        let is_expected = self.adoption.is_some() && self.members.rank_of(&member.worker).is_some();
        if !member.is_present() || is_expected && !member.has_session {
            return None;
        }
        let since = |moment: Duration| self.now.saturating_sub(moment);
        if let Some(away_since) = member.notes.away_since {
            let seconds = AWAY_TIMEOUT.as_secs_f64();
            let cause = &member.notes.away_cause;
            return (since(away_since) >= AWAY_TIMEOUT).then(|| {
                format!("its session ended ({cause}) and did not come back within {seconds} s")
            });
        }
        let timeout = self.options.heartbeat_timeout;
        let silence = since(member.last_heard);
        if silence > timeout {
            let what =
                if member.has_session { "not heard" } else { "joined and opened no session" };
            return Some(format!(
                "{what} for {:.1} s, more than coordinator.heartbeat_timeout_seconds = {}",
                silence.as_secs_f64(),
                timeout.as_secs_f64()
            ));
        }
        let timeout = self.options.step_timeout;
        let asked = member.notes.asked_to_stand.filter(|asked| since(*asked) > timeout)?;
        Some(format!(
            "it did not stand by within {:.1} s, more than coordinator.step_timeout_seconds = {}",
            since(asked).as_secs_f64(),
            timeout.as_secs_f64()
        ))
    }

    fn check_join_timeout(&mut self) {
        let timeout = self.options.join_timeout;
        let overdue = self
            .gathering
            .as_ref()
            .is_some_and(|gathering| self.now.saturating_sub(gathering.began) > timeout);
        if overdue && self.adoption.is_none() && !self.form_with_fewest() {
            let what = self.missing_workers();
            self.fail(FailureKind::PeerLost, &what);
        }
    }

    /// Who did not come or form in time, in words.
    fn missing_workers(&self) -> String {
        let (key, seconds) =
            ("coordinator.join_timeout_seconds", self.options.join_timeout.as_secs_f64());
        let names = |members: &[&Member]| {
            members.iter().map(|m| m.worker.0.as_str()).collect::<Vec<_>>().join(", ")
        };
        if self.phase == Phase::Forming {
            let late: Vec<String> = self
                .members
                .world()
                .filter(|member| member.stage() != WorkerState::Ready)
                .map(Member::describe)
                .collect();
            return format!("{} did not become ready within {key} = {seconds}", late.join(", "));
        }
        let members = self.members.sorted();
        let present: Vec<&Member> = members.into_iter().filter(|m| m.is_present()).collect();
        let (here, not_yet): (Vec<&Member>, Vec<&Member>) =
            present.into_iter().partition(|member| member.is_candidate());
        let here = match here.len() {
            0 => "none".into(),
            count => format!("{count}: {}", names(&here)),
        };
        let not_yet = match not_yet.len() {
            0 => String::new(),
            _ => format!("; not ready yet: {}", names(&not_yet)),
        };
        let wanted = workers(self.options.min_workers);
        format!(
            "{wanted} at least were expected within {key} = {seconds} and too few came \
             ({here}{not_yet}); start the others, lower coordinator.min_workers or raise {key}"
        )
    }
}
