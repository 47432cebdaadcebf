//! A run shown while it goes on: bars that move on a terminal, lines that stay
//! everywhere else. Both go to standard error.

mod bars;
#[cfg(test)]
pub mod example;
mod lines;
pub mod table;
#[cfg(test)]
mod tests;
mod words;

use std::io::{IsTerminal, stderr};

use prospect_proto::RunStatus;

use crate::notices;
use bars::Bars;
use lines::Lines;
pub use words::{bytes, duration, health_words};

/// One of the two forms.
pub enum Display {
    /// For a terminal.
    Bars(Bars),
    /// For a file or a pipe.
    Lines(Lines),
}

impl Display {
    /// The form that standard error can show.
    pub fn new() -> Self {
        if stderr().is_terminal() { Self::Bars(Bars::new()) } else { Self::Lines(Lines::default()) }
    }

    /// Shows a change.
    pub fn update(&mut self, status: &RunStatus) {
        match self {
            Self::Bars(bars) => bars.update(status),
            Self::Lines(lines) => lines.update(status).iter().for_each(|line| notices::say(line)),
        }
    }

    /// So many processes have taken another one's place; the run's state does not tell that.
    pub fn restarted(&mut self, num_restarts: u64) {
        match self {
            Self::Bars(bars) => bars.num_restarts = num_restarts,
            Self::Lines(lines) => lines.num_restarts = num_restarts,
        }
    }

    /// Says something beside the run's state; it stays.
    pub fn say(&self, message: &str) {
        match self {
            Self::Bars(bars) => bars.say(message),
            Self::Lines(_) => notices::say(message),
        }
    }

    /// Says something that should be looked at.
    pub fn warn(&self, message: &str) {
        let word = console::style("warning:").for_stderr().yellow().bold();
        self.say(&format!("{word} {message}"));
    }

    /// Leaves the terminal as it was, with all that was said.
    pub fn finish(self) {
        match self {
            Self::Bars(bars) => bars.finish(),
            Self::Lines(_) => notices::finish(),
        }
    }
}
