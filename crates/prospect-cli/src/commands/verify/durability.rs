//! N3: what was said to be durable is never lost.

use std::collections::BTreeMap;

use super::finding::Finding;
use super::records::{Checkpoint, Record, World};
use super::run::{CHECKPOINTS, FINAL, JOURNAL, Run, directory_name};

/// Kind of the event that says why a checkpoint is not used.
const REJECTED: &str = "checkpoint_rejected";

/// What the journal has said of checkpoints so far.
#[derive(Debug, Default)]
struct Said<'a> {
    /// The newest record of every step whose checkpoint was not rejected since.
    durable: BTreeMap<u64, (usize, &'a Checkpoint)>,
    committed: u64,
    num_restores: u64,
    num_rejected: u64,
}

/// Holds every return to a checkpoint, and the checkpoints on disk, against the record.
pub(super) fn judge(run: &Run) -> Result<String, Finding> {
    let mut said = Said::default();
    for (number, line) in (1..).zip(&run.journal.values) {
        if line.kind == REJECTED {
            said.num_rejected += u64::from(said.durable.remove(&line.step).is_some());
        }
        let at = |finding: Finding| finding.at_line(number);
        match &line.data {
            Some(Record::Step(entry)) => said.committed = entry.step,
            Some(Record::Checkpoint(point)) => {
                said.durable.insert(point.step, (number, point));
            }
            Some(Record::RolledBack(back)) => {
                said.hold_return(back.step).map_err(at)?;
                said.committed = back.step;
            }
            Some(Record::Generation(world)) => said.hold_restore(world).map_err(at)?,
            _ => {}
        }
    }
    said.hold_disk(run)?;
    if run.is_complete() && run.weights.is_empty() {
        return Err(Finding::in_file(FINAL, "the weights", "absent", "those of the trained model"));
    }
    let newest = match said.durable.keys().next_back() {
        None => "no checkpoint is on record".to_owned(),
        Some(step) => format!("the checkpoint of step {step} is intact"),
    };
    let rejected = match said.num_rejected {
        0 => String::new(),
        number => format!(", {number} rejected with the reason"),
    };
    let returns = match said.num_restores {
        0 => "no return to a checkpoint".to_owned(),
        1 => "1 return to a checkpoint, none behind what was durable".to_owned(),
        number => format!("{number} returns to checkpoints, none behind what was durable"),
    };
    Ok(format!("{newest}{rejected}; {returns}"))
}

impl Said<'_> {
    /// Going back to `step` must not pass a durable checkpoint by.
    fn hold_return(&self, step: u64) -> Result<(), Finding> {
        let Some((newest, (line, _))) = self.durable.last_key_value() else { return Ok(()) };
        if *newest <= step {
            return Ok(());
        }
        let expected = format!(
            "{newest} or later: line {line} says that step {newest} is durable, and none that it \
             was rejected"
        );
        let finding =
            Finding::in_file(JOURNAL, "the step that the run goes back to", step, expected);
        Err(finding.of_step(step))
    }

    /// A world takes up the weights of the last committed step.
    fn hold_restore(&mut self, world: &World) -> Result<(), Finding> {
        let restored = match (world.restore.from.as_str(), &world.restore.path) {
            ("initial", _) => 0,
            ("peer" | "kept", _) => return Ok(()),
            ("checkpoint", Some(path)) => match step_of(path) {
                Some(step) => step,
                None => {
                    let expected = format!("{CHECKPOINTS}/{}", directory_name(world.committed));
                    return Err(Finding::in_file(JOURNAL, "restore.path", path, expected));
                }
            },
            (other, _) => {
                let expected = "initial, checkpoint, peer or kept";
                return Err(Finding::in_file(JOURNAL, "restore.from", other, expected));
            }
        };
        if restored != self.committed {
            let expected = format!("{}, the last committed step", self.committed);
            let finding = Finding::in_file(JOURNAL, "the restored step", restored, expected);
            return Err(finding.of_step(restored));
        }
        self.num_restores += u64::from(world.restore.from == "checkpoint");
        self.hold_return(restored)
    }

    /// What is there has the digests on record, and the newest on record is there.
    fn hold_disk(&self, run: &Run) -> Result<(), Finding> {
        for (step, (line, point)) in &self.durable {
            let dir = format!("{CHECKPOINTS}/{}", directory_name(*step));
            let is_newest = self.durable.keys().next_back() == Some(step);
            let at = |finding: Finding| finding.of_step(*step);
            match run.checkpoints.get(step) {
                None if !is_newest || is_replaced(run, *step) => {}
                None => {
                    let expected = format!("there: line {line} of {JOURNAL} says that it is");
                    return Err(at(Finding::in_file(&dir, "the directory", "absent", expected)));
                }
                Some(Err(damage)) => {
                    let file = format!("{dir}/{}", damage.file);
                    let (field, found) = (damage.field, &damage.found);
                    return Err(at(Finding::in_file(&file, field, found, &damage.expected)));
                }
                Some(Ok(intact)) => {
                    let digests = [
                        ("manifest_sha256", &intact.manifest_sha256, &point.manifest_sha256),
                        ("content_sha256", &intact.content_sha256, &point.content_sha256),
                    ];
                    for (field, found, expected) in digests {
                        if found != expected {
                            let expected = format!("{expected}, as line {line} of {JOURNAL} says");
                            return Err(at(Finding::in_file(&dir, field, found, expected)));
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// Whether a run that goes on has put a newer checkpoint in its place while this was read.
fn is_replaced(run: &Run, step: u64) -> bool {
    let newer = run.checkpoints.range(step + 1..);
    run.state() == super::run::State::Unended && newer.into_iter().any(|(_, found)| found.is_ok())
}

/// Step of a checkpoint's directory.
fn step_of(path: &str) -> Option<u64> {
    let name = path.strip_prefix(CHECKPOINTS)?.strip_prefix('/')?;
    let step = name.strip_prefix("step-")?.parse().ok()?;
    (directory_name(step) == name).then_some(step)
}
