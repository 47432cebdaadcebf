//! A run directory in memory: what its files say, not yet held against anything.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::digests::{self, Damage, Intact};
use super::finding::Finding;
use super::lines::{self, Lines, Number};
use super::records::{Entry, Line, Record};
use crate::error::CliError;

/// What happened, and the ledger.
pub(super) const JOURNAL: &str = "journal.jsonl";
/// One line a step.
pub(super) const METRICS: &str = "metrics.jsonl";
/// What decides a run's numbers.
pub(super) const MANIFEST: &str = "manifest.json";
/// The trained model.
pub(super) const FINAL: &str = "final";
/// Where checkpoints lie.
pub(super) const CHECKPOINTS: &str = "checkpoints";

/// Prefix of a checkpoint while another one of its step takes its place. Where the coordinator was
/// lost in between, the next start gives the name back.
const ASIDE: &str = ".replaced-";

/// A run directory.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) root: PathBuf,
    /// `manifest.json`, or what is wrong with it.
    pub(super) settings: Result<Map<String, Value>, Finding>,
    pub(super) journal: Lines<Line>,
    pub(super) metrics: Lines<Metrics>,
    /// All that has the name of a checkpoint, by step.
    pub(super) checkpoints: BTreeMap<u64, Result<Intact, Damage>>,
    /// SHA-256 of the trained model's weights, by file.
    pub(super) weights: BTreeMap<String, String>,
}

/// A line of `metrics.jsonl`, as far as the ledger knows it too.
#[derive(Debug, Deserialize)]
pub(super) struct Metrics {
    pub(super) step: u64,
    pub(super) loss: Number,
    #[serde(default)]
    pub(super) grad_norm: Option<Number>,
    #[serde(default)]
    pub(super) learning_rate: Option<Number>,
    pub(super) num_tokens: u64,
}

/// How a run stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It goes on, or its coordinator was lost.
    Unended,
    /// It has ended in this phase.
    Ended(String),
}

/// A line of the ledger and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed<'a> {
    /// Line of the journal.
    pub(super) line: usize,
    pub(super) entry: &'a Entry,
}

impl Run {
    /// Reads a run directory, the checkpoints byte for byte.
    ///
    /// # Errors
    /// Files that are there but cannot be read.
    pub(super) fn read(root: &Path) -> Result<Self, CliError> {
        // The journal first: what a run that goes on writes meanwhile is in the others only.
        let journal = lines::read(root, JOURNAL)?;
        let metrics = lines::read(root, METRICS)?;
        let final_dir = root.join(FINAL);
        let weights = digests::weights(&final_dir)
            .map_err(|source| CliError::Read { path: final_dir, source })?;
        Ok(Self {
            settings: settings(root)?,
            journal,
            metrics,
            checkpoints: checkpoints(&root.join(CHECKPOINTS))?,
            weights,
            root: root.to_owned(),
        })
    }

    /// All records with the lines that they stand in.
    pub(super) fn records(&self) -> impl Iterator<Item = (usize, &Record)> {
        let lines = (1..).zip(&self.journal.values);
        lines.filter_map(|(number, line)| Some((number, line.data.as_ref()?)))
    }

    /// All lines of the ledger, those too that were rolled back.
    pub(super) fn entries(&self) -> impl Iterator<Item = Placed<'_>> {
        self.records().filter_map(|(line, record)| match record {
            Record::Step(entry) => Some(Placed { line, entry }),
            _ => None,
        })
    }

    /// The ledger: one line a step, of the attempt that the run ended with.
    pub(super) fn ledger(&self) -> BTreeMap<u64, Placed<'_>> {
        let mut ledger = BTreeMap::new();
        for (line, record) in self.records() {
            match record {
                Record::Step(entry) => {
                    ledger.insert(entry.step, Placed { line, entry });
                }
                Record::RolledBack(back) => ledger.retain(|&step, _| step <= back.step),
                _ => {}
            }
        }
        ledger
    }

    /// How the run stands.
    pub(super) fn state(&self) -> State {
        let last = self.records().filter_map(|(_, record)| match record {
            Record::Ended(ended) => Some(State::Ended(ended.phase.clone())),
            Record::Generation(_) | Record::Step(_) => Some(State::Unended),
            _ => None,
        });
        last.last().unwrap_or(State::Unended)
    }

    /// Whether all steps are done and the model is saved.
    pub(super) fn is_complete(&self) -> bool {
        self.state() == State::Ended("complete".to_owned())
    }

    /// A setting of the run, where the manifest is there and has it.
    pub(super) fn setting(&self, key: &str) -> Option<&Value> {
        self.settings.as_ref().ok()?.get(key)
    }

    /// Whether the bits do not depend on the number of workers.
    pub(super) fn is_canonical(&self) -> bool {
        self.setting("train.reduction").and_then(Value::as_str) == Some("canonical")
    }
}

fn settings(root: &Path) -> Result<Result<Map<String, Value>, Finding>, CliError> {
    let path = root.join(MANIFEST);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Err(Finding::in_file(MANIFEST, "the file", "absent", "the run's settings")));
        }
        Err(source) => return Err(CliError::Read { path, source }),
    };
    Ok(serde_json::from_slice(&bytes)
        .map_err(|error| Finding::in_file(MANIFEST, "the content", error, "one JSON object")))
}

fn checkpoints(dir: &Path) -> Result<BTreeMap<u64, Result<Intact, Damage>>, CliError> {
    let failed = |source| CliError::Read { path: dir.to_owned(), source };
    let (mut found, mut aside) = (BTreeMap::new(), Vec::new());
    if !dir.is_dir() {
        return Ok(found);
    }
    for entry in fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        let path = dir.join(&name);
        let named = name.strip_prefix(ASIDE).unwrap_or(&name);
        let step = named.strip_prefix("step-").and_then(|number| number.parse().ok());
        let Some(step) = step.filter(|&step| directory_name(step) == named) else { continue };
        if named != name {
            aside.push((step, path));
        } else if let Some(checkpoint) = checkpoint(&path, step) {
            found.insert(step, checkpoint);
        }
    }
    for (step, path) in aside {
        if !found.contains_key(&step) {
            found.extend(checkpoint(&path, step).map(|checkpoint| (step, checkpoint)));
        }
    }
    Ok(found)
}

/// A checkpoint, unless a run that goes on has taken it away while it was read.
fn checkpoint(path: &Path, step: u64) -> Option<Result<Intact, Damage>> {
    let found = digests::checkpoint(path, step);
    (found.is_ok() || path.exists()).then_some(found)
}

/// Name of the checkpoint of a step.
pub(super) fn directory_name(step: u64) -> String {
    format!("step-{step:06}")
}
