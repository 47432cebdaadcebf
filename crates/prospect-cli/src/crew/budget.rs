//! How often workers that died are started again, and after how long. Pure:
//! steps are told, and delays are answers.

use std::time::Duration;

use prospect_core::Step;

/// Steps that must be committed after a restart for it to count as a success.
const STEPS_OF_SUCCESS: u64 = 10;
/// Wait before the first restart of a worker; it doubles with each that was no success.
const FIRST_DELAY: Duration = Duration::from_millis(200);
/// The longest wait.
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// The restarts that a crew has left. Those of a worker are given back once ten steps were committed
/// while it took part in them.
#[derive(Debug)]
pub struct Budget {
    max: u32,
    step: Step,
    spent: Vec<Spent>,
}

/// A restart that has not been a success yet.
#[derive(Debug)]
struct Spent {
    rank: u32,
    /// Last step that was committed when the worker died.
    died: Step,
    /// Last step that was committed when its place in the world was taken again.
    back: Option<Step>,
}

impl Budget {
    /// A budget of `max` restarts.
    pub fn new(max: u32) -> Self {
        Self { max, step: Step(0), spent: Vec::new() }
    }

    /// The run stands at `step`; `takes_part` tells which ranks have a place in the world. Steps
    /// that are done again after a return to a checkpoint bring nothing back before they pass the
    /// step at which the worker died.
    pub fn stands_at(&mut self, step: Step, takes_part: impl Fn(u32) -> bool) {
        self.step = step;
        self.spent.retain_mut(|spent| {
            if !takes_part(spent.rank) {
                spent.back = None;
                return true;
            }
            let back = *spent.back.get_or_insert(spent.died.max(step));
            step.0 < back.0 + STEPS_OF_SUCCESS
        });
    }

    /// Takes one restart for the worker of `rank`: how long to wait before it, or `None` when all
    /// are used up.
    pub fn spend(&mut self, rank: u32) -> Option<Duration> {
        if self.spent.len() >= self.max as usize {
            return None;
        }
        let before = self.spent.iter().filter(|spent| spent.rank == rank).count();
        // Steps count for the process that follows only.
        self.spent
            .iter_mut()
            .filter(|spent| spent.rank == rank)
            .for_each(|spent| spent.back = None);
        self.spent.push(Spent { rank, died: self.step, back: None });
        // Five doublings reach the longest wait.
        Some((FIRST_DELAY * (1 << before.min(5))).min(LONGEST_DELAY))
    }

    /// Last step that is known to be committed.
    pub fn step(&self) -> Step {
        self.step
    }

    /// How many there are in all.
    pub fn max(&self) -> u32 {
        self.max
    }
}

#[cfg(test)]
mod tests;
