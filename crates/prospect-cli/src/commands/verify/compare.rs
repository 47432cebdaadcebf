//! Two ledgers side by side: bit for bit as long as both were computed alike, to a tolerance from
//! the first step on that another number of workers has done with the fast reduction.

use serde_json::Value;

use super::finding::Finding;
use super::records::{Bits, Entry};
use super::run::{JOURNAL, MANIFEST, Placed, Run};

/// Largest relative difference of losses between numbers of workers with the fast reduction.
pub(super) const TOLERANCE: f64 = 1e-5;

/// The setting that may differ: every line of the ledger has the number of workers itself.
const WORKERS: &str = "coordinator.workers";

/// How much of two ledgers was compared, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Extent {
    /// Steps compared bit for bit.
    pub(super) exact: u64,
    /// Steps compared to a tolerance.
    pub(super) loose: u64,
    /// First step that was done by different numbers of workers.
    pub(super) parted: Option<u64>,
    /// Largest relative difference of losses among the steps compared to a tolerance.
    pub(super) worst: f64,
}

/// What differs first.
#[derive(Debug)]
pub(super) enum Difference {
    /// Between steps that have to be the same bit for bit.
    Exact(Finding),
    /// Between steps of different numbers of workers.
    Loose(Finding),
}

/// Compares pairs of entries of the same step, in the order of steps.
pub(super) fn entries<'a>(
    pairs: impl Iterator<Item = (Placed<'a>, &'a Entry)>,
    is_canonical: bool,
) -> Result<Extent, Difference> {
    let mut extent = Extent::default();
    for (placed, other) in pairs {
        let Placed { line, entry } = placed;
        let at = |finding: Finding| finding.at_line(line).of_step(entry.step);
        if !is_canonical && entry.world_size != other.world_size {
            extent.parted.get_or_insert(entry.step);
        }
        if extent.parted.is_none() {
            content(entry, other)
                .and_then(|()| numbers(entry, other))
                .map_err(|finding| Difference::Exact(at(finding)))?;
            extent.exact += 1;
        } else {
            let difference = content(entry, other)
                .and_then(|()| nearly(entry, other))
                .map_err(|finding| Difference::Loose(at(finding)))?;
            extent.worst = extent.worst.max(difference);
            extent.loose += 1;
        }
    }
    Ok(extent)
}

/// What a step holds, whoever computes it.
pub(super) fn content(entry: &Entry, other: &Entry) -> Result<(), Finding> {
    rows(&entry.rows, &other.rows)?;
    if entry.pairs_sha256 != other.pairs_sha256 {
        let (found, expected) = (&entry.pairs_sha256, &other.pairs_sha256);
        return Err(Finding::in_file(JOURNAL, "pairs_sha256", found, expected));
    }
    if !entry.epoch.is(other.epoch.0) {
        return Err(Finding::in_file(JOURNAL, "epoch", entry.epoch.0, other.epoch.0));
    }
    bits("learning_rate", entry.learning_rate, other.learning_rate)
}

/// The first setting that differs between two runs.
pub(super) fn settings(run: &Run, against: &Run) -> Result<(), Finding> {
    let (Ok(ours), Ok(theirs)) = (&run.settings, &against.settings) else { return Ok(()) };
    let text = |value: Option<&Value>| value.map_or("not set".to_owned(), Value::to_string);
    let keys = theirs.keys().chain(ours.keys().filter(|key| !theirs.contains_key(*key)));
    for key in keys.filter(|key| *key != WORKERS) {
        let (found, expected) = (ours.get(key), theirs.get(key));
        if found != expected {
            return Err(Finding::in_file(MANIFEST, key, text(found), text(expected)));
        }
    }
    Ok(())
}

fn rows(found: &[u64], expected: &[u64]) -> Result<(), Finding> {
    if found.len() != expected.len() {
        let (found, expected) = (found.len(), expected.len());
        return Err(Finding::in_file(JOURNAL, "number of rows", found, expected));
    }
    let mut places = found.iter().zip(expected).enumerate();
    match places.find(|(_, (found, expected))| found != expected) {
        None => Ok(()),
        Some((idx, (found, expected))) => {
            Err(Finding::in_file(JOURNAL, &format!("rows[{idx}]"), found, expected))
        }
    }
}

fn numbers(entry: &Entry, other: &Entry) -> Result<(), Finding> {
    bits("loss", entry.loss, other.loss)?;
    bits("reference_point", entry.reference_point, other.reference_point)?;
    bits("grad_norm", entry.grad_norm, other.grad_norm)
}

fn bits(field: &str, found: Bits, expected: Bits) -> Result<(), Finding> {
    if found == expected {
        return Ok(());
    }
    Err(Finding::in_file(JOURNAL, field, found, expected))
}

/// Relative difference of the losses.
fn nearly(entry: &Entry, other: &Entry) -> Result<f64, Finding> {
    let (found, expected) = (entry.loss.value(), other.loss.value());
    let scale = found.abs().max(expected.abs());
    let difference = if found == expected { 0.0 } else { (found - expected).abs() / scale };
    // Also false for what is not a number.
    if difference <= TOLERANCE {
        return Ok(difference);
    }
    let expected = format!("{expected} within {TOLERANCE:e} of it");
    Err(Finding::in_file(JOURNAL, "loss", found, expected))
}
