//! N1 and N4: the run computed what it would have computed without a loss.

use super::compare::{self, Difference, Extent, TOLERANCE};
use super::finding::{Finding, Verdict};
use super::records::Record;
use super::run::{FINAL, JOURNAL, Placed, Run};

/// Steps that were done again gave what they had given before.
pub(super) fn within(run: &Run) -> Verdict {
    let mut first = std::collections::BTreeMap::new();
    let mut pairs = Vec::new();
    for placed in run.entries() {
        match first.entry(placed.entry.step) {
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(placed.entry);
            }
            std::collections::btree_map::Entry::Occupied(earlier) => {
                pairs.push((placed, *earlier.get()));
            }
        }
    }
    if pairs.is_empty() {
        return Verdict::NotJudged("no step was done twice; give --against to compare runs".into());
    }
    match compare::entries(pairs.into_iter(), run.is_canonical()) {
        Err(Difference::Exact(finding) | Difference::Loose(finding)) => Verdict::Broken(finding),
        Ok(Extent { exact, loose: 0, .. }) => {
            Verdict::Holds(format!("{} done again, the same bit for bit", steps(exact)))
        }
        Ok(Extent { exact, loose, worst, .. }) => Verdict::Holds(format!(
            "{} done again the same bit for bit, {loose} by other numbers of workers with losses \
             within {worst:.1e}",
            steps(exact)
        )),
    }
}

/// Both runs are one: N1 for the steps that equal numbers of workers have done, N4 for the others.
pub(super) fn against(run: &Run, other: &Run) -> (Verdict, Verdict) {
    if let Err(finding) = compare::settings(run, other) {
        let reason = "the settings of the runs differ".to_owned();
        return (Verdict::Broken(finding), Verdict::NotJudged(reason));
    }
    let (ours, theirs) = (run.ledger(), other.ledger());
    if let Err(finding) = same_end(run, other) {
        return (Verdict::Broken(finding), Verdict::NotJudged("a step is missing".to_owned()));
    }
    let common = ours.values().filter_map(|placed| {
        let other: &Placed<'_> = theirs.get(&placed.entry.step)?;
        Some((*placed, other.entry))
    });
    let is_canonical = run.is_canonical();
    let extent = match compare::entries(common, is_canonical) {
        Ok(extent) => extent,
        Err(Difference::Exact(finding)) => {
            let reason = "the runs differ before".to_owned();
            return (Verdict::Broken(finding), Verdict::NotJudged(reason));
        }
        Err(Difference::Loose(finding)) => {
            let reason = "another number of workers has done the steps".to_owned();
            return (Verdict::NotJudged(reason), Verdict::Broken(finding));
        }
    };
    let exactly = match extent {
        Extent { exact: 0, parted: Some(_), .. } => {
            Verdict::NotJudged("other numbers of workers have done all steps: see N4".to_owned())
        }
        _ => files(run, other, &extent).map(|rest| trajectory(&extent, &rest)).into(),
    };
    (exactly, elastic(&extent, is_canonical, differing_worlds(run, other)))
}

fn trajectory(extent: &Extent, rest: &str) -> String {
    let compared = steps(extent.exact);
    match extent.parted {
        None => format!("{compared} equal bit for bit; {rest}"),
        Some(step) => format!("{compared} before step {step} equal bit for bit; {rest}"),
    }
}

fn elastic(extent: &Extent, is_canonical: bool, differing: u64) -> Verdict {
    match (extent.parted, differing) {
        (Some(step), _) => Verdict::Holds(format!(
            "from step {step} on other numbers of workers: rows and pairs of {} equal, losses \
             within {:.1e} (bound {TOLERANCE:e})",
            steps(extent.loose),
            extent.worst
        )),
        (None, 1..) if is_canonical => Verdict::Holds(format!(
            "{} done by other numbers of workers, equal bit for bit (canonical)",
            steps(differing)
        )),
        _ => Verdict::NotJudged("equal numbers of workers have done all steps".to_owned()),
    }
}

fn differing_worlds(run: &Run, other: &Run) -> u64 {
    let theirs = other.ledger();
    let differs = |(step, ours): (&u64, &Placed<'_>)| {
        let other = theirs.get(step)?;
        (ours.entry.world_size != other.entry.world_size).then_some(())
    };
    run.ledger().iter().filter_map(differs).count() as u64
}

/// Runs that are complete have done the same steps.
fn same_end(run: &Run, other: &Run) -> Result<(), Finding> {
    let last = |run: &Run| run.ledger().keys().next_back().copied().unwrap_or_default();
    let (found, expected) = (last(run), last(other));
    let is_short = (found < expected && run.is_complete())
        || (found > expected && other.is_complete())
        || (found != expected && run.is_complete() && other.is_complete());
    if is_short {
        return Err(Finding::in_file(JOURNAL, "the last step", found, expected));
    }
    Ok(())
}

/// Checkpoints and final weights, as far as the steps before them were done alike.
fn files(run: &Run, other: &Run, extent: &Extent) -> Result<String, Finding> {
    let reach = extent.parted.unwrap_or(u64::MAX);
    let theirs = contents(other);
    let mut num_checkpoints = 0;
    for (step, (line, found)) in contents(run).range(..reach) {
        let Some((_, expected)) = theirs.get(step) else { continue };
        if found != expected {
            let finding = Finding::in_file(JOURNAL, "content_sha256", found, expected);
            return Err(finding.at_line(*line).of_step(*step));
        }
        num_checkpoints += 1;
    }
    let checkpoints = match num_checkpoints {
        0 => "no checkpoint to compare".to_owned(),
        1 => "1 checkpoint equal".to_owned(),
        number => format!("{number} checkpoints equal"),
    };
    if extent.parted.is_some() {
        return Ok(checkpoints);
    }
    if !(run.is_complete() && other.is_complete()) {
        return Ok(format!("{checkpoints}; not both runs are complete"));
    }
    for name in run.weights.keys().chain(other.weights.keys()) {
        let (found, expected) = (run.weights.get(name), other.weights.get(name));
        if found != expected {
            let text = |digest: Option<&String>| digest.cloned().unwrap_or("absent".to_owned());
            let file = format!("{FINAL}/{name}");
            return Err(Finding::in_file(&file, "its sha256", text(found), text(expected)));
        }
    }
    Ok(format!("{checkpoints}; final weights equal"))
}

/// Digests of what the checkpoints on record hold, with their lines; the newest of every step.
fn contents(run: &Run) -> std::collections::BTreeMap<u64, (usize, &str)> {
    let records = run.records().filter_map(|(line, record)| match record {
        Record::Checkpoint(point) => Some((point.step, (line, point.content_sha256.as_str()))),
        _ => None,
    });
    records.collect()
}

/// A number of steps in words.
pub(super) fn steps(number: u64) -> String {
    if number == 1 { "1 step".to_owned() } else { format!("{number} steps") }
}
