//! TensorBoard event files: TFRecord frames around protocol messages.
//!
//! A frame is the length (u64, little-endian), the masked checksum of these 8
//! bytes, the message, and its masked checksum.

#[cfg(test)]
mod tests;

use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prospect_core::{Step, StepMetrics};
use prost::Message as _;

use crate::CoordinatorError;
use crate::crc32c::masked;
use crate::storage::GrowingFile;

/// A message of `tensorflow/core/util/event.proto`, as far as it is used here.
#[derive(Clone, PartialEq, prost::Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

/// Values of one step.
#[derive(Clone, PartialEq, prost::Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

/// One value.
#[derive(Clone, PartialEq, prost::Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// Tells readers to forget what an earlier file holds from a step on.
#[derive(Clone, PartialEq, prost::Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `SessionLog.SessionStatus.START`.
const SESSION_START: i32 = 1;

/// An event file that is being written.
#[derive(Debug)]
pub(crate) struct EventFile(GrowingFile);

impl EventFile {
    /// Makes a new file for a run that begins, or goes on, after `step`. Readers forget what
    /// earlier files hold of later steps. The moment is part of the name, by which they order
    /// the files.
    ///
    /// # Errors
    /// A directory that cannot be written.
    pub(crate) fn create(
        dir: &Path,
        step: Step,
        now: SystemTime,
    ) -> Result<Self, CoordinatorError> {
        let seconds = since_epoch(now).as_secs();
        let process = std::process::id();
        let name = |number: u32| {
            dir.join(format!("events.out.tfevents.{seconds:010}.prospect.{process}.{number}"))
        };
        let file = (0..)
            .map(name)
            .map(|path| (GrowingFile::create_new(&path), path))
            .find_map(|(file, path)| match file {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => None,
                file => Some(file.map_err(CoordinatorError::storage("making", &path))),
            })
            .expect("a number is free in any second")?;
        let file_version = Some("brain.Event:2".to_owned());
        let version = Event { file_version, ..Event::at(Step(0), now) };
        let session_log = Some(SessionLog { status: SESSION_START });
        let start = Event { session_log, ..Event::at(step.next(), now) };
        let mut events = Self(file);
        for event in [version, start] {
            events.write(&event).map_err(CoordinatorError::storage("writing", events.path()))?;
        }
        Ok(events)
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Adds the values of a step. Tags are those of transformers' callback:
    /// `train/` or `eval/` and the key.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(crate) fn record(
        &mut self,
        folder: &str,
        metrics: &StepMetrics,
        now: SystemTime,
    ) -> io::Result<()> {
        let value = metrics
            .values(&format!("{folder}/"))
            .into_iter()
            .map(|(tag, value)| Value { tag, simple_value: Some(value as f32) })
            .collect();
        self.write(&Event { summary: Some(Summary { value }), ..Event::at(metrics.step, now) })
    }

    fn write(&mut self, event: &Event) -> io::Result<()> {
        self.0.append_at_once(&frame(&event.encode_to_vec()))
    }
}

#[cfg(test)]
impl EventFile {
    /// Writes values to where nothing fits any more.
    pub(crate) fn fill_disk(&mut self) {
        self.0 = GrowingFile::open(Path::new("/dev/full")).expect("it is there");
    }
}

impl Event {
    fn at(step: Step, now: SystemTime) -> Self {
        Self {
            wall_time: since_epoch(now).as_secs_f64(),
            step: i64::try_from(step.0).unwrap_or(i64::MAX),
            ..Self::default()
        }
    }
}

fn since_epoch(now: SystemTime) -> Duration {
    now.duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn frame(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    let mut frame = Vec::with_capacity(message.len() + 16);
    frame.extend(length);
    frame.extend(masked(&length).to_le_bytes());
    frame.extend(message);
    frame.extend(masked(message).to_le_bytes());
    frame
}
