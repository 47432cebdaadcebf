//! What happened, one JSON object a line, with numbers without gaps.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use prospect_core::{Generation, Step};
use prospect_proto::Event;
use prost_types::Timestamp;
use serde::{Deserialize, Serialize};

use super::History;
use crate::CoordinatorError;
use crate::storage::{JsonLines, keep_lines};

/// Kind of the first event of every start of the coordinator.
pub(crate) const STARTED: &str = "run_started";
/// Kind of the event of a run that is complete.
pub(crate) const COMPLETE: &str = "run_complete";

/// The journal, and the events in memory for readers.
#[derive(Debug)]
pub(crate) struct Journal {
    lines: JsonLines,
    history: History,
    next_sequence: u64,
}

/// What earlier starts have left in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Past {
    /// Generation of this start.
    pub(crate) generation: Generation,
    /// Last step of the run, if it is complete.
    pub(crate) completed: Option<Step>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    sequence: u64,
    time: String,
    kind: String,
    step: u64,
    message: String,
}

impl Journal {
    /// Opens the journal and puts its events into the history. A line that a
    /// crash cut off is removed.
    ///
    /// # Errors
    /// A damaged journal or one that cannot be written.
    pub(crate) fn open(path: &Path, history: History) -> Result<(Self, Past), CoordinatorError> {
        let lines: Vec<Line> = keep_lines(path, |_| true)?;
        let events: Vec<Event> = lines.into_iter().map(Line::into_event).collect();
        if let Some(gap) = (1..).zip(&events).find(|(number, event)| event.sequence != *number) {
            return Err(CoordinatorError::Damaged {
                path: path.to_owned(),
                problem: format!(
                    "event {} stands where event {} belongs; restore the file or choose another run directory",
                    gap.1.sequence, gap.0
                ),
            });
        }
        let starts = events.iter().filter(|event| event.kind == STARTED).count();
        let past = Past {
            generation: Generation(starts as u64 + 1),
            completed: events
                .iter()
                .rfind(|event| event.kind == STARTED || event.kind == COMPLETE)
                .filter(|event| event.kind == COMPLETE)
                .map(|event| event.step),
        };
        let next_sequence = events.len() as u64 + 1;
        history.write().events = events;
        Ok((Self { lines: JsonLines::open(path)?, history, next_sequence }, past))
    }

    /// Adds an event.
    ///
    /// # Errors
    /// A journal that cannot be written.
    pub(crate) fn record(
        &mut self,
        kind: &str,
        step: Step,
        message: &str,
    ) -> Result<(), CoordinatorError> {
        let event = Event {
            sequence: self.next_sequence,
            time: SystemTime::now(),
            kind: kind.to_owned(),
            message: message.to_owned(),
            step,
        };
        self.lines.append(&Line::from(&event))?;
        self.next_sequence += 1;
        self.history.write().events.push(event);
        Ok(())
    }

    /// Waits until all events are on the disk.
    ///
    /// # Errors
    /// A disk that fails.
    pub(crate) fn sync(&mut self) -> Result<(), CoordinatorError> {
        self.lines.sync()
    }
}

impl From<&Event> for Line {
    fn from(event: &Event) -> Self {
        Self {
            sequence: event.sequence,
            time: Timestamp::from(event.time).to_string(),
            kind: event.kind.clone(),
            step: event.step.0,
            message: event.message.clone(),
        }
    }
}

impl Line {
    fn into_event(self) -> Event {
        let time =
            self.time.parse().ok().and_then(|time: Timestamp| SystemTime::try_from(time).ok());
        Event {
            sequence: self.sequence,
            time: time.unwrap_or(UNIX_EPOCH),
            kind: self.kind,
            message: self.message,
            step: Step(self.step),
        }
    }
}
