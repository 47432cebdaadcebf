//! The report of a run: one HTML page with plots, made from the files of the
//! run directory. It opens without a network and shows everything without
//! scripts; a script only adds values under the pointer. Files that are missing
//! or end in the middle of a line are shown as far as they go.

mod charts;
mod journal;
mod markup;
mod page;
mod plot;
mod sampling;
mod series;
mod table;
#[cfg(test)]
mod tests;
mod ticks;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use prospect_core::Step;

use journal::Journal;
use series::Table;

/// What the report says about a run beside its files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Name of the run.
    pub run_id: String,
    /// How the run stands: `complete`, `stopped`, `failed`.
    pub phase: String,
    /// What happened, in words for a person.
    pub message: String,
    /// Last step that was committed.
    pub step: Step,
    /// Steps that the run has in all.
    pub total_steps: u64,
    /// Ranks in the world.
    pub world_size: u32,
    /// Duration, in seconds.
    pub seconds: f64,
}

/// What the files of a run directory hold.
#[derive(Debug, Default)]
struct Records {
    train: Table,
    eval: Table,
    journal: Journal,
    /// Text of `run.toml`.
    config: Option<String>,
}

/// Writes `reports/report.html` of the run directory and returns its path. The
/// page is put in place whole: a reader sees the old one or the new one.
///
/// # Errors
/// A file of the run directory that is there and cannot be read, or a report
/// that cannot be written.
pub fn write(run_dir: &Path, summary: &Summary) -> io::Result<PathBuf> {
    let records = Records::read(run_dir)?;
    let reports = run_dir.join("reports");
    fs::create_dir_all(&reports)?;
    let path = reports.join("report.html");
    let unfinished = reports.join(".report.html.tmp");
    let mut file = File::create(&unfinished)?;
    file.write_all(page::render(summary, &records).as_bytes())?;
    file.sync_all()?;
    drop(file);
    fs::rename(&unfinished, &path)?;
    File::open(&reports)?.sync_all()?;
    Ok(path)
}

impl Records {
    fn read(run_dir: &Path) -> io::Result<Self> {
        let config = if_there(fs::read(run_dir.join("run.toml")))?;
        Ok(Self {
            train: Table::read(&run_dir.join("metrics.jsonl"), "")?,
            eval: Table::read(&run_dir.join("eval_metrics.jsonl"), "eval_")?,
            journal: Journal::read(&run_dir.join("journal.jsonl"))?,
            config: config.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        })
    }
}

/// Turns the error of a file that is not there into an absent value.
fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
