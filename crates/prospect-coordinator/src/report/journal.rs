//! The journal's events, as far as their lines can be read.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value};

use super::series::for_each_object;
use crate::records::STEP;

/// Events of the beginning that are shown of a long journal.
pub(super) const FIRST: usize = 200;
/// Events of the end that are shown of a long journal.
pub(super) const LAST: usize = 800;

/// One event; absent values are empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Event {
    pub(super) sequence: String,
    pub(super) time: String,
    pub(super) kind: String,
    pub(super) message: String,
    pub(super) step: String,
}

/// The beginning and the end of the journal.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// At most [`FIRST`] + [`LAST`] events.
    pub(super) events: Vec<Event>,
    /// Events between the two that are not shown.
    pub(super) num_left_out: usize,
}

impl Journal {
    /// Reads the file.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let mut journal = Self::default();
        for_each_object(path, |object| {
            // Steps are told by the plots.
            if object.get("kind").and_then(Value::as_str) != Some(STEP) {
                journal.events.push(Event::new(&object));
            }
        })?;
        journal.num_left_out = journal.events.len().saturating_sub(FIRST + LAST);
        if journal.num_left_out > 0 {
            journal.events.drain(FIRST..FIRST + journal.num_left_out);
        }
        Ok(journal)
    }
}

impl Event {
    fn new(object: &Map<String, Value>) -> Self {
        let text = |key: &str| match object.get(key) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        let seconds = object.get("time").and_then(Value::as_f64);
        Self {
            sequence: text("sequence"),
            time: seconds.and_then(moment).unwrap_or_else(|| without_fraction(text("time"))),
            kind: text("kind"),
            message: text("message"),
            step: text("step"),
        }
    }
}

/// Takes the fraction of a second off `2026-01-31T12:00:00.123Z`.
fn without_fraction(time: String) -> String {
    match time.strip_suffix('Z').and_then(|time| time.split_once('.')) {
        Some((whole, _)) => format!("{}Z", whole.replace('T', " ")),
        None => time.replace('T', " "),
    }
}

/// Date and time of the seconds since 1970, in UTC.
fn moment(seconds: f64) -> Option<String> {
    let seconds = Duration::try_from_secs_f64(seconds).ok()?.as_secs();
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let (year, month, day) = date(days)?;
    Some(format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z"))
}

/// Year, month and day of the days since 1970, by counting years and months.
fn date(mut days: u64) -> Option<(u64, usize, u64)> {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let year = (1970..=9999).find(|&year| {
        let length = 365 + u64::from(is_leap(year));
        let is_here = days < length;
        days -= if is_here { 0 } else { length };
        is_here
    })?;
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    for (idx, length) in lengths.into_iter().enumerate() {
        if days < length {
            return Some((year, idx + 1, days + 1));
        }
        days -= length;
    }
    None
}
