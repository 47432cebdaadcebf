//! What happened, one JSON object a line, with numbers without gaps. Lines that a later start
//! depends on carry a record: together they are the state machine's memory, and those of kind
//! `step` the ledger of the run.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prospect_core::Step;
use prospect_proto::Event;
use prospect_schedule::machine::{Record, Replay};
use prost_types::Timestamp;
use serde::{Deserialize, Serialize};

use super::History;
use crate::CoordinatorError;
use crate::storage::{JsonLines, keep_lines};

/// Kind of the first event of every start of the coordinator.
pub(crate) const STARTED: &str = "run_started";
/// Kind of the event of a run that is complete.
pub(crate) const COMPLETE: &str = "run_complete";
/// Kind of the ledger's lines. Readers of the status find steps in the metrics.
pub(crate) const STEP: &str = "step";

/// The journal, and the events in memory for readers.
#[derive(Debug)]
pub(crate) struct Journal {
    lines: JsonLines,
    history: History,
    next_sequence: u64,
}

/// What earlier starts have left in the journal.
#[derive(Debug, Default)]
pub(crate) struct Past {
    /// What the records add up to.
    pub(crate) replay: Replay,
    /// Time for which the run has been going on.
    pub(crate) course: Course,
}

/// For how long a run has been going on: from the first world that formed to the end of the run,
/// and again when it goes on. A coordinator that is gone without an end does not stop it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Course {
    ended: Duration,
    /// When the stretch that has not ended began.
    since: Option<SystemTime>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    sequence: u64,
    time: String,
    kind: String,
    step: u64,
    message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<Record>,
}

impl Journal {
    /// Opens the journal, puts its events into the history and adds up its records. A line that
    /// a crash cut off is removed.
    ///
    /// # Errors
    /// A damaged journal or one that cannot be written.
    pub(crate) fn open(path: &Path, history: History) -> Result<(Self, Past), CoordinatorError> {
        let lines: Vec<Line> = keep_lines(path, |_| true)?;
        if let Some(gap) = (1..).zip(&lines).find(|(number, line)| line.sequence != *number) {
            return Err(CoordinatorError::Damaged {
                path: path.to_owned(),
                problem: format!(
                    "event {} stands where event {} belongs; restore the file or choose another run directory",
                    gap.1.sequence, gap.0
                ),
            });
        }
        let next_sequence = lines.len() as u64 + 1;
        let mut past = Past::default();
        let mut events = Vec::new();
        for mut line in lines {
            let record = line.data.take();
            let event = line.into_event();
            if let Some(record) = record {
                past.course.take(event.time, &record);
                past.replay.push(&record).map_err(|error| CoordinatorError::Damaged {
                    path: path.to_owned(),
                    problem: format!(
                        "line {}: {error}; restore the file or choose another run directory",
                        event.sequence
                    ),
                })?;
            }
            if event.kind != STEP {
                events.push(event);
            }
        }
        history.write().events = events;
        Ok((Self { lines: JsonLines::open(path)?, history, next_sequence }, past))
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        self.lines.path()
    }

    /// Adds an event, with the record that it is about where there is one.
    ///
    /// # Errors
    /// A journal that cannot be written.
    pub(crate) fn record(
        &mut self,
        kind: &str,
        step: Step,
        message: &str,
        data: Option<Record>,
    ) -> Result<(), CoordinatorError> {
        let event = Event {
            sequence: self.next_sequence,
            time: SystemTime::now(),
            kind: kind.to_owned(),
            message: message.to_owned(),
            step,
        };
        self.lines.append(&Line::new(&event, data))?;
        self.next_sequence += 1;
        if kind != STEP {
            self.history.write().events.push(event);
        }
        Ok(())
    }

    /// Waits until all events are on the disk.
    ///
    /// # Errors
    /// A disk that fails.
    pub(crate) fn sync(&mut self) -> Result<(), CoordinatorError> {
        self.lines.sync()
    }

    /// Waits for no room from here on.
    pub(crate) fn hurry(&mut self) {
        self.lines.hurry();
    }
}

#[cfg(test)]
impl Journal {
    /// Writes events to where nothing fits any more.
    pub(crate) fn fill_disk(&mut self) {
        self.lines = JsonLines::open(Path::new("/dev/full")).expect("it is there");
        self.lines.hurry();
    }
}

impl Course {
    /// For how long until `now`, and whether the run has not ended.
    pub(crate) fn until(&self, now: SystemTime) -> (Duration, bool) {
        let open = self.since.map(|since| now.duration_since(since).unwrap_or_default());
        (self.ended + open.unwrap_or_default(), open.is_some())
    }

    fn take(&mut self, time: SystemTime, record: &Record) {
        match record {
            Record::Formed { .. } => {
                self.since.get_or_insert(time);
            }
            Record::Ended { .. } => {
                self.ended = self.until(time).0;
                self.since = None;
            }
            _ => {}
        }
    }
}

impl Line {
    fn new(event: &Event, data: Option<Record>) -> Self {
        Self {
            sequence: event.sequence,
            time: Timestamp::from(event.time).to_string(),
            kind: event.kind.clone(),
            step: event.step.0,
            message: event.message.clone(),
            data,
        }
    }

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
