//! N7: the records have no gap, and tell the same.

use super::finding::Finding;
use super::records::{Bits, Record};
use super::run::{JOURNAL, METRICS, Metrics, Placed, Run, State};
use super::trajectory::steps;

/// Holds the journal's numbers against each other, and the metrics against the ledger.
pub(super) fn judge(run: &Run) -> Result<String, Finding> {
    let damage = [&run.journal.damage, &run.metrics.damage];
    if let Some(finding) = damage.into_iter().flatten().next() {
        return Err(finding.clone());
    }
    if let Err(finding) = &run.settings {
        return Err(finding.clone());
    }
    let has_ended = run.state() != State::Unended;
    for (file, is_torn) in [(JOURNAL, run.journal.is_torn), (METRICS, run.metrics.is_torn)] {
        if is_torn && has_ended {
            return Err(Finding::in_file(file, "the last line", "cut off", "whole"));
        }
    }
    numbers(run)?;
    attempts(run)?;
    let num_ahead = metrics(run, has_ended)?;
    let ahead = match num_ahead {
        0 => String::new(),
        number => format!("; {} of {METRICS} not on the ledger yet", steps(number)),
    };
    let torn = match run.journal.is_torn || run.metrics.is_torn {
        true => "; a last line is cut off, which the next start removes",
        false => "",
    };
    Ok(format!(
        "{} events without a gap, {} of {METRICS} as on the ledger{ahead}{torn}",
        run.journal.values.len(),
        steps(run.metrics.values.len() as u64 - num_ahead)
    ))
}

/// Events are numbered from 1, and a ledger line is about its own step.
fn numbers(run: &Run) -> Result<(), Finding> {
    for (number, line) in (1..).zip(&run.journal.values) {
        let differs = |field, found: u64, expected: u64| {
            Err(Finding::in_file(JOURNAL, field, found, expected).at_line(number))
        };
        if line.sequence != number as u64 {
            return differs("sequence", line.sequence, number as u64);
        }
        if let Some(Record::Step(entry)) = &line.data
            && line.step != entry.step
        {
            return differs("the step of the line", line.step, entry.step);
        }
    }
    Ok(())
}

/// Every return begins a higher attempt, and steps carry the one that they are part of.
fn attempts(run: &Run) -> Result<(), Finding> {
    let mut current = None;
    for (line, record) in run.records() {
        let differs = |found: u64, expected: String, step| {
            let finding = Finding::in_file(JOURNAL, "attempt", found, expected);
            Err(finding.at_line(line).of_step(step))
        };
        match record {
            Record::RolledBack(back) => {
                if current.is_some_and(|current| back.attempt <= current) {
                    let expected = format!("above {}", current.unwrap_or_default());
                    return differs(back.attempt, expected, back.step);
                }
                current = Some(back.attempt);
            }
            Record::Step(entry) => {
                let expected = *current.get_or_insert(entry.attempt);
                if entry.attempt != expected {
                    return differs(entry.attempt, expected.to_string(), entry.step);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// One line a step, with the ledger's numbers. A run that has not ended may be ahead of it.
/// Returns by how many steps it is.
fn metrics(run: &Run, has_ended: bool) -> Result<u64, Finding> {
    let ledger = run.ledger();
    let mut tokens = 0;
    let mut num_ahead = 0;
    for (number, metrics) in (1..).zip(&run.metrics.values) {
        let step = number as u64;
        let at = |finding: Finding| finding.at_line(number).of_step(step);
        let differs = |field, found: u64, expected: String| {
            Err(at(Finding::in_file(METRICS, field, found, expected)))
        };
        if metrics.step != step {
            return differs("step", metrics.step, step.to_string());
        }
        if metrics.num_tokens < tokens {
            return differs("num_tokens", metrics.num_tokens, format!("at least {tokens}"));
        }
        tokens = metrics.num_tokens;
        match ledger.get(&step) {
            Some(placed) => same_numbers(metrics, placed).map_err(at)?,
            None if has_ended => {
                return differs("step", step, format!("one that {JOURNAL} has on record"));
            }
            None => num_ahead += 1,
        }
    }
    match ledger.values().nth(run.metrics.values.len()) {
        None => Ok(num_ahead),
        Some(Placed { line, entry }) => {
            let expected =
                format!("a line for step {}: line {line} of {JOURNAL} has it", entry.step);
            let lines = steps(run.metrics.values.len() as u64);
            Err(Finding::in_file(METRICS, "the file", lines, expected).of_step(entry.step))
        }
    }
}

fn same_numbers(metrics: &Metrics, placed: &Placed<'_>) -> Result<(), Finding> {
    let Placed { line, entry } = placed;
    let pairs = [
        ("loss", Some(metrics.loss), entry.loss),
        ("grad_norm", metrics.grad_norm, entry.grad_norm),
        ("learning_rate", metrics.learning_rate, entry.learning_rate),
    ];
    for (field, found, expected) in pairs {
        if !found.is_some_and(|found| found.is(expected.value())) {
            let found = found.map_or("absent".to_owned(), |found| Bits::of(found.0).to_string());
            let expected = format!("{expected}, as line {line} of {JOURNAL} says");
            return Err(Finding::in_file(METRICS, field, found, expected));
        }
    }
    Ok(())
}
