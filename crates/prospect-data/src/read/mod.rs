//! Files of feedback rows: which they are, how they are compressed, and their
//! rows in order, each with its place.

mod files;
mod json;
mod parquet;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde_json::{Map, Value};

pub(crate) use files::expand;

use crate::DataError;

/// Rows that are handed on together, to be worked on in parallel.
pub(crate) const BATCH_ROWS: usize = 2048;

/// A data file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub path: PathBuf,
    pub layout: Layout,
    pub codec: Codec,
}

/// How rows lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// One JSON object a line.
    Lines,
    /// JSON of unknown layout: an array of objects, or one object a line.
    Json,
    /// Apache Parquet.
    Parquet,
}

/// How a file is compressed as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    Plain,
    Gzip,
    Zstd,
}

/// A row before it is understood.
#[derive(Debug)]
pub(crate) struct RawRow {
    /// From 1.
    pub line: u64,
    pub content: RawContent,
}

/// The bytes of a line, or a row that the file format has already taken apart.
#[derive(Debug)]
pub(crate) enum RawContent {
    Bytes(Vec<u8>),
    Object(Map<String, Value>),
    /// Something else than an object.
    Other(Value),
}

impl Source {
    /// Reads all rows in order and hands them to `sink` in batches. `columns` are the only ones
    /// that a format which stores columns apart has to read.
    ///
    /// # Errors
    /// When the file cannot be read to its end, or whatever `sink` fails with.
    pub fn read(
        &self,
        columns: &[&str],
        sink: &mut dyn FnMut(Vec<RawRow>) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        match self.layout {
            Layout::Lines | Layout::Json => json::read(self, sink),
            Layout::Parquet => parquet::read(self, columns, sink),
        }
    }

    /// The path as it stands in reports.
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }
}
