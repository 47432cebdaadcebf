//! Two ledgers side by side: bit for bit as long as both were computed alike, and for some steps to
//! a tolerance from the first one on that another number of workers has done with the fast reduction.

use serde_json::Value;

use super::finding::Finding;
use super::records::{Bits, Entry};
use super::run::{JOURNAL, MANIFEST, Placed, Run};

/// Largest relative difference of losses between numbers of workers with the fast reduction.
pub(super) const TOLERANCE: f64 = 1e-5;
/// Steps for which it is held, from the first one on that may differ. Differences grow with every
/// step, so that no bound holds for all.
pub(super) const HELD_STEPS: u64 = 50;

/// The setting that may differ: every line of the ledger has the number of workers itself.
const WORKERS: &str = "coordinator.workers";

/// How much of two ledgers was compared, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Extent {
    /// Steps compared bit for bit.
    pub(super) exact: u64,
    /// Steps whose losses may differ.
    pub(super) loose: u64,
    /// First step that was done by different numbers of workers.
    pub(super) parted: Option<u64>,
    /// Largest relative difference of losses among the steps held to a tolerance.
    pub(super) worst: f64,
    /// The same among those after them.
    pub(super) worst_later: f64,
}

/// What steps that were done again gave.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Again {
    /// The same bits as before.
    pub(super) same: u64,
    /// Other bits.
    pub(super) other: u64,
    /// Largest relative difference of losses.
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
            let is_held = extent.parted.is_some_and(|parted| entry.step < parted + HELD_STEPS);
            let difference = content(entry, other)
                .and_then(|()| nearly(entry, other, is_held))
                .map_err(|finding| Difference::Loose(at(finding)))?;
            let worst = if is_held { &mut extent.worst } else { &mut extent.worst_later };
            *worst = worst.max(difference);
            extent.loose += 1;
        }
    }
    Ok(extent)
}

/// Compares steps that were done again with what they were before: they hold the same, and what
/// their numbers are is told.
pub(super) fn again<'a>(
    pairs: impl Iterator<Item = (Placed<'a>, &'a Entry)>,
) -> Result<Again, Finding> {
    let mut again = Again::default();
    for (Placed { line, entry }, before) in pairs {
        content(entry, before).map_err(|finding| finding.at_line(line).of_step(entry.step))?;
        let is_same = numbers(entry, before).is_ok();
        *if is_same { &mut again.same } else { &mut again.other } += 1;
        again.worst = again.worst.max(difference(entry, before));
    }
    Ok(again)
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

/// Relative difference of the losses, which is a number, and within the tolerance where it is held.
fn nearly(entry: &Entry, other: &Entry, is_held: bool) -> Result<f64, Finding> {
    let difference = difference(entry, other);
    // Also false for what is not a number.
    if difference <= if is_held { TOLERANCE } else { f64::MAX } {
        return Ok(difference);
    }
    let (found, expected) = (entry.loss.value(), other.loss.value());
    let expected = match is_held {
        true => format!("{expected} within {TOLERANCE:e} of it"),
        false => format!("a number as {expected} is"),
    };
    Err(Finding::in_file(JOURNAL, "loss", found, expected))
}

fn difference(entry: &Entry, other: &Entry) -> f64 {
    let (found, expected) = (entry.loss.value(), other.loss.value());
    let scale = found.abs().max(expected.abs());
    if found == expected { 0.0 } else { (found - expected).abs() / scale }
}
