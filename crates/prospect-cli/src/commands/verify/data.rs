//! N2: every example is read once an epoch, and steps that are done again read the same.

use std::collections::BTreeMap;

use serde_json::Value;

use super::compare::content;
use super::finding::Finding;
use super::run::{JOURNAL, Placed, Run};
use super::trajectory::steps;

/// The shape of an epoch.
#[derive(Clone, Copy, Debug)]
struct Shape {
    steps: u64,
    /// Rows of every step but the last of an epoch, where the settings say it.
    batch: Option<u64>,
    /// Rows of the data, where the journal says it.
    rows: Option<u64>,
}

/// Holds what every step has read against the epoch.
pub(super) fn judge(run: &Run) -> Result<String, Finding> {
    let num_again = same_when_done_again(run)?;
    let ledger = run.ledger();
    let Some(first) = ledger.values().next() else {
        return Ok("no step is on record".to_owned());
    };
    let mut shape = Shape::of(run, first);
    let mut num_whole = 0;
    let mut last_epoch = 0;
    let mut reading = Epoch::default();
    for placed in ledger.values() {
        shape.hold_epoch(placed)?;
        let (epoch, place) = shape.place(placed.entry.step);
        if place == 0 {
            reading = Epoch::default();
        }
        last_epoch = epoch + 1;
        shape.hold_size(placed, place)?;
        reading.read(placed)?;
        if place + 1 == shape.steps && reading.num_steps == shape.steps {
            reading.end(placed, shape.rows)?;
            shape.rows.get_or_insert(reading.seen.len() as u64);
            num_whole += 1;
        } else if let Some(rows) = shape.rows {
            reading.hold_range(placed, rows)?;
        }
    }
    let rows = shape.rows.map_or("not known how many".to_owned(), |rows| rows.to_string());
    let whole = match num_whole {
        1 => "1 whole epoch".to_owned(),
        number => format!("{number} whole epochs"),
    };
    let part = if last_epoch > num_whole { " and a part" } else { "" };
    let again = match num_again {
        0 => String::new(),
        number => format!("; {} done again with the same rows and pairs", steps(number)),
    };
    Ok(format!("{whole}{part} of {rows} rows, each read once{again}"))
}

fn same_when_done_again(run: &Run) -> Result<u64, Finding> {
    let mut first: BTreeMap<u64, Placed<'_>> = BTreeMap::new();
    let mut num_again = 0;
    for placed in run.entries() {
        let Placed { line, entry } = placed;
        match first.get(&entry.step) {
            None => {
                first.insert(entry.step, placed);
            }
            Some(earlier) => {
                let at = |finding: Finding| finding.at_line(line).of_step(entry.step);
                content(entry, earlier.entry).map_err(at)?;
                num_again += 1;
            }
        }
    }
    Ok(num_again)
}

/// What was read of an epoch so far.
#[derive(Debug, Default)]
struct Epoch {
    /// Step that has read a row.
    seen: BTreeMap<u64, u64>,
    num_steps: u64,
}

impl Epoch {
    fn read(&mut self, placed: &Placed<'_>) -> Result<(), Finding> {
        self.num_steps += 1;
        for &row in &placed.entry.rows {
            if let Some(earlier) = self.seen.insert(row, placed.entry.step) {
                let found = format!("{row}, which step {earlier} of the epoch has read");
                return Err(of(placed, "rows", found, "every row once an epoch"));
            }
        }
        Ok(())
    }

    fn hold_range(&self, placed: &Placed<'_>, rows: u64) -> Result<(), Finding> {
        match placed.entry.rows.iter().find(|&&row| row >= rows) {
            None => Ok(()),
            Some(row) => Err(of(placed, "rows", row, format!("rows below {rows}"))),
        }
    }

    /// All rows of the data, and no others.
    fn end(&self, placed: &Placed<'_>, rows: Option<u64>) -> Result<(), Finding> {
        let rows = rows.unwrap_or(self.seen.len() as u64);
        match (0..rows).find(|row| !self.seen.contains_key(row)) {
            Some(missing) => {
                let found = format!("an epoch without row {missing}");
                Err(of(placed, "rows", found, format!("each of {rows} rows once an epoch")))
            }
            None => self.hold_range(placed, rows),
        }
    }
}

impl Shape {
    fn of(run: &Run, first: &Placed<'_>) -> Self {
        let entry = first.entry;
        let steps = (entry.step as f64 / entry.epoch.0).round();
        Self {
            // Saturates for what is no number of steps; `hold_epoch` then says so.
            steps: (steps as u64).max(1),
            batch: run.setting("train.global_batch_size").and_then(Value::as_u64),
            rows: rows_opened(run),
        }
    }

    /// Epoch and place in it of a step, both from 0.
    fn place(&self, step: u64) -> (u64, u64) {
        let before = step.saturating_sub(1);
        (before / self.steps, before % self.steps)
    }

    fn hold_epoch(&self, placed: &Placed<'_>) -> Result<(), Finding> {
        let expected = placed.entry.step as f64 / self.steps as f64;
        if placed.entry.epoch.is(expected) {
            return Ok(());
        }
        let expected = format!("{expected}, with {} an epoch", steps(self.steps));
        Err(of(placed, "epoch", placed.entry.epoch.0, expected))
    }

    /// All batches are full but the last of an epoch, which holds what is left.
    fn hold_size(&self, placed: &Placed<'_>, place: u64) -> Result<(), Finding> {
        let Some(batch) = self.batch else { return Ok(()) };
        let found = placed.entry.rows.len() as u64;
        let is_last = place + 1 == self.steps;
        let left = self.rows.map(|rows| rows.saturating_sub(place * batch));
        let fits = match (is_last, left) {
            (false, _) => found == batch,
            (true, Some(left)) => found == left && left <= batch,
            (true, None) => (1..=batch).contains(&found),
        };
        if fits {
            return Ok(());
        }
        let expected = match (is_last, left) {
            (true, Some(left)) => format!("{left}, the rest of the epoch"),
            (true, None) => format!("1 to {batch}, the rest of the epoch"),
            (false, _) => batch.to_string(),
        };
        Err(of(placed, "number of rows", found, expected))
    }
}

/// Number of rows that the journal says were opened: `240 rows, ...`.
fn rows_opened(run: &Run) -> Option<u64> {
    let opened = run.journal.values.iter().rfind(|line| line.kind == "data_opened")?;
    opened.message.split_once(" rows,")?.0.parse().ok()
}

fn of(
    placed: &Placed<'_>,
    field: &str,
    found: impl std::fmt::Display,
    expected: impl std::fmt::Display,
) -> Finding {
    Finding::in_file(JOURNAL, field, found, expected)
        .at_line(placed.line)
        .of_step(placed.entry.step)
}
