//! N1 and N4: the run computed what it would have computed without a loss.

use super::compare::{self, Again, Difference, Extent, HELD_STEPS, TOLERANCE};
use super::finding::{Finding, Verdict};
use super::records::Record;
use super::run::{FINAL, JOURNAL, Placed, Run, State};

/// Steps that were done again hold what they held before. That they give the same bits is no law
/// for all devices, so that other ones are told and not judged.
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
    match compare::again(pairs.into_iter()) {
        Err(finding) => Verdict::Broken(finding),
        Ok(Again { same, other: 0, .. }) => {
            Verdict::Holds(format!("{} done again, the same bit for bit", steps(same)))
        }
        Ok(Again { same, other, worst }) => Verdict::NotJudged(format!(
            "{} done again with the same rows and pairs, {other} of them with other bits (losses \
             within {worst:.1e}); GPUs and other numbers of workers may give such",
            steps(same + other)
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
        Extent { exact: 0, .. } => Verdict::NotJudged("no step is in both runs".to_owned()),
        _ => files(run, other, &extent).map(|rest| trajectory(&extent, &rest)).into(),
    };
    let elastic = elastic(&extent, is_canonical, differing_worlds(run, other));
    match cut_short(run, other) {
        None => (exactly, elastic),
        Some(reason) => (exactly.only_so_far(&reason), elastic.only_so_far(&reason)),
    }
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
        (Some(step), _) => {
            let later = match extent.worst_later {
                0.0 => String::new(),
                worst => format!(", within {worst:.1e} after them"),
            };
            Verdict::Holds(format!(
                "from step {step} on other numbers of workers: rows and pairs of {} equal, losses \
                 within {:.1e} (bound {TOLERANCE:e} for {HELD_STEPS} steps){later}",
                steps(extent.loose),
                extent.worst
            ))
        }
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
    let (found, expected) = (last_step(run), last_step(other));
    let is_short = (found < expected && run.is_complete())
        || (found > expected && other.is_complete())
        || (found != expected && run.is_complete() && other.is_complete());
    if is_short {
        return Err(Finding::in_file(JOURNAL, "the last step", found, expected));
    }
    Ok(())
}

/// Why a run that has ended says nothing of the steps that are left.
fn cut_short(run: &Run, other: &Run) -> Option<String> {
    let sides = [("the run", run, other), ("the other run", other, run)];
    sides.into_iter().find_map(|(name, run, other)| {
        let State::Ended(phase) = run.state() else { return None };
        let (step, reach) = (last_step(run), last_step(other));
        let is_cut = !run.is_complete() && (phase == "failed" || step < reach);
        is_cut.then(|| format!("{name} ended at step {step} of {} ({phase})", reach.max(step)))
    })
}

fn last_step(run: &Run) -> u64 {
    run.ledger().keys().next_back().copied().unwrap_or_default()
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
