//! Workers that hold the others up: slower at computing than the median rank.

use prospect_core::{Rank, Step};

use super::run::RunMachine;

/// Steps that are looked back at.
const WINDOW: usize = 8;
/// Steps that are needed for a judgement.
const ENOUGH: usize = 4;
/// How many times the median's time makes a straggler.
const LIMIT: f64 = 1.5;
/// Seconds a step by which a straggler holds the others up, at least: less than that is chance.
const LEAST_EXCESS: f64 = 0.05;

impl RunMachine {
    /// Takes in the seconds of computing of a committed step, by rank.
    pub(super) fn judge_speed(&mut self, step: Step, seconds: &[f64]) {
        let mut medians = Vec::new();
        for (rank, seconds) in (0..).map(Rank).zip(seconds) {
            let Some(worker) = self.members.of_rank(rank).map(|m| m.worker.clone()) else { return };
            let Some(member) = self.members.get_mut(&worker) else { return };
            let window = &mut member.notes.seconds;
            window.push_back(*seconds);
            while window.len() > WINDOW {
                window.pop_front();
            }
            medians.push((worker, median(window.iter().copied()), window.len()));
        }
        let usual = median(medians.iter().map(|(_, median, _)| *median));
        let is_known = medians.len() >= 2 && usual > 0.0;
        for (worker, own, count) in medians {
            let slowdown = (is_known && count >= ENOUGH).then(|| own / usual);
            let Some(member) = self.members.get_mut(&worker) else { continue };
            let was = member.is_straggler;
            member.slowdown = slowdown;
            member.is_straggler =
                slowdown.is_some_and(|slowdown| slowdown >= LIMIT) && own - usual >= LEAST_EXCESS;
            let is = member.is_straggler;
            if is == was {
                continue;
            }
            let (who, times) = (member.describe(), slowdown.unwrap_or(1.0));
            if is {
                let message = format!("{who} takes {times:.1} times as long as the median rank");
                self.note("straggler", step, message);
            } else {
                self.note("straggler_over", step, format!("{who} keeps up again"));
            }
        }
    }
}

/// The middle value, the lower of two; 0 of none.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}
