//! The journal of a run as anyone can read it: one object a line.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use serde_json::Value;

/// One line.
#[derive(Clone, Debug)]
pub struct Line {
    /// Number without gaps, from 1.
    pub sequence: u64,
    /// When it was written.
    pub time: SystemTime,
    /// What, as one word.
    pub kind: String,
    /// Step that it belongs to.
    pub step: u64,
    /// What, in words.
    pub message: String,
    /// What a restarted coordinator reads; null where there is nothing.
    pub data: Value,
}

/// All lines that are complete.
pub fn read(run_dir: &Path) -> Vec<Line> {
    let text = fs::read_to_string(run_dir.join("journal.jsonl")).unwrap_or_default();
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    complete.lines().map(parse).collect()
}

fn parse(text: &str) -> Line {
    let line: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let word = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let time: prost_types::Timestamp = word("time").parse().unwrap();
    Line {
        sequence: line["sequence"].as_u64().unwrap(),
        time: time.try_into().unwrap(),
        kind: word("kind"),
        step: line["step"].as_u64().unwrap(),
        message: word("message"),
        data: line["data"].clone(),
    }
}

impl Line {
    /// Whether it holds a record of this name.
    pub fn is_record(&self, record: &str) -> bool {
        self.data["record"] == record
    }

    /// A number of its record, 0 where there is none.
    pub fn number(&self, key: &str) -> u64 {
        self.data[key].as_u64().unwrap_or_default()
    }
}

/// Prints the end of the journal for a person, with seconds since its first line.
pub fn print(run_dir: &Path) {
    let lines = read(run_dir);
    let began = lines.first().map_or(SystemTime::UNIX_EPOCH, |line| line.time);
    eprintln!("--- journal:");
    for line in lines.iter().skip(lines.len().saturating_sub(300)) {
        let seconds = line.time.duration_since(began).unwrap_or_default().as_secs_f64();
        let Line { sequence, kind, step, message, .. } = line;
        eprintln!("{sequence} {seconds:7.3} {kind} {step}: {message}");
    }
}

/// Records of one name.
pub fn records(run_dir: &Path, record: &str) -> Vec<Line> {
    read(run_dir).into_iter().filter(|line| line.is_record(record)).collect()
}

/// Last committed step, 0 before the first.
pub fn last_step(run_dir: &Path) -> u64 {
    records(run_dir, "step").last().map_or(0, |line| line.number("step"))
}

/// Generation of the world that was formed last.
pub fn generation(run_dir: &Path) -> u64 {
    records(run_dir, "formed").last().map_or(0, |line| line.number("generation"))
}

/// Newest checkpoint that was said to be durable, 0 for none.
pub fn durable_step(run_dir: &Path) -> u64 {
    records(run_dir, "checkpoint").iter().map(|line| line.number("step")).max().unwrap_or(0)
}
