//! Metrics by key, read from files with one JSON object a line.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;

use serde_json::{Map, Value};

use super::if_there;

/// A step and the value of a metric in it.
pub(super) type Point = (u64, f64);

/// All values of one metric, by growing step.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Series {
    pub(super) key: String,
    pub(super) points: Vec<Point>,
}

/// All metrics of a file, in the order in which they first occur.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) all: Vec<Series>,
}

/// Calls `take` with each object of the file. Lines that are no object, such as
/// the half of a line that a crash leaves, are passed over.
pub(super) fn for_each_object(
    path: &Path,
    mut take: impl FnMut(Map<String, Value>),
) -> io::Result<()> {
    let Some(file) = if_there(File::open(path))? else { return Ok(()) };
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        if let Ok(object) = serde_json::from_slice(&line) {
            take(object);
        }
        line.clear();
    }
    Ok(())
}

impl Table {
    /// Reads the file. `prefix` is taken off the keys that have it.
    pub(super) fn read(path: &Path, prefix: &str) -> io::Result<Self> {
        let mut table = Self::default();
        for_each_object(path, |object| table.add(&object, prefix))?;
        Ok(table)
    }

    /// Values of a metric; empty if it does not occur.
    pub(super) fn get(&self, key: &str) -> &[Point] {
        self.all.iter().find(|series| series.key == key).map_or(&[], |series| &series.points)
    }

    /// The last value of a metric.
    pub(super) fn last(&self, key: &str) -> Option<f64> {
        self.get(key).last().map(|point| point.1)
    }

    fn add(&mut self, object: &Map<String, Value>, prefix: &str) {
        let name = |key: &str| key.strip_prefix(prefix).unwrap_or(key).to_owned();
        let step = object.iter().find(|(key, _)| name(key) == "step");
        let Some(step) = step.and_then(|(_, value)| value.as_u64()) else { return };
        for (key, value) in object {
            let key = name(key);
            if let Some(value) = value.as_f64().filter(|value| value.is_finite() && key != "step") {
                self.series(key).push((step, value));
            }
        }
    }

    fn series(&mut self, key: String) -> &mut Series {
        let idx = self.all.iter().position(|series| series.key == key).unwrap_or_else(|| {
            self.all.push(Series { key, points: Vec::new() });
            self.all.len() - 1
        });
        &mut self.all[idx]
    }
}

impl Series {
    /// Adds a point. A step that was taken again after a resume replaces what
    /// was there from that step on.
    fn push(&mut self, point: Point) {
        while self.points.last().is_some_and(|last| last.0 >= point.0) {
            self.points.pop();
        }
        self.points.push(point);
    }
}
