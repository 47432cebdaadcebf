//! N5: at any time one generation at most commits steps.

use super::finding::Finding;
use super::records::{Entry, Record, World};
use super::run::{JOURNAL, Run};
use super::trajectory::steps;

/// What the journal has said so far.
#[derive(Debug, Default)]
struct Said<'a> {
    /// Highest generation of any record.
    generation: u64,
    /// Generation of the last world, given up or not.
    last_world: u64,
    /// The last world, unless it was given up.
    world: Option<&'a World>,
    /// Whether all workers of that world are ready.
    is_formed: bool,
    committed: u64,
    num_worlds: u64,
    num_steps: u64,
}

/// Replays the journal: worlds begin, form and end in order, and only a formed one commits.
pub(super) fn judge(run: &Run) -> Result<String, Finding> {
    let mut said = Said::default();
    for (line, record) in run.records() {
        said.take(record).map_err(|finding| finding.at_line(line))?;
    }
    let worlds = match said.num_worlds {
        1 => "1 generation".to_owned(),
        number => format!("{number} generations"),
    };
    let commits = steps(said.num_steps);
    Ok(format!("{worlds}, {commits} each committed by the one that was formed"))
}

impl<'a> Said<'a> {
    fn take(&mut self, record: &'a Record) -> Result<(), Finding> {
        match record {
            Record::Generation(world) => self.begin(world),
            Record::Formed(formed) => {
                let expected = self.world.map(|world| world.generation);
                if self.is_formed || expected != Some(formed.generation) {
                    let expected = match expected {
                        Some(generation) if !self.is_formed => generation.to_string(),
                        _ => "one that has begun and is not formed yet".to_owned(),
                    };
                    return Err(differs("the formed generation", formed.generation, expected));
                }
                self.is_formed = true;
                Ok(())
            }
            Record::Regroup(regroup) => {
                self.give_up();
                self.hold_committed(regroup.committed)?;
                if regroup.generation <= self.generation {
                    let expected = format!("above {}", self.generation);
                    return Err(differs("generation", regroup.generation, expected));
                }
                self.generation = regroup.generation;
                Ok(())
            }
            Record::Step(entry) => self.commit(entry).map_err(|found| found.of_step(entry.step)),
            Record::Checkpoint(point) if point.step > self.committed => {
                let expected = format!("at most {}, the last committed step", self.committed);
                Err(differs("the step of a checkpoint", point.step, expected).of_step(point.step))
            }
            Record::Checkpoint(_) => Ok(()),
            Record::RolledBack(back) => {
                self.give_up();
                if back.step > self.committed {
                    let expected = format!("at most {}", self.committed);
                    return Err(differs("the step that the run goes back to", back.step, expected));
                }
                self.committed = back.step;
                Ok(())
            }
            Record::Ended(_) => {
                self.give_up();
                Ok(())
            }
        }
    }

    fn begin(&mut self, world: &'a World) -> Result<(), Finding> {
        // A regroup has raised the number already, the start of a coordinator has not.
        let least = self.generation.max(self.last_world + 1);
        if world.generation < least {
            let expected = format!("{least} or above");
            return Err(differs("generation", world.generation, expected));
        }
        self.hold_committed(world.committed)?;
        let mut ranks: Vec<u32> = world.members.iter().map(|(_, _, rank)| *rank).collect();
        ranks.sort_unstable();
        if !ranks.iter().copied().eq(0..world.world_size) {
            let expected = format!("every rank of a world of {} once", world.world_size);
            return Err(differs("the members' ranks", format!("{ranks:?}"), expected));
        }
        self.generation = world.generation;
        self.last_world = world.generation;
        self.world = Some(world);
        self.is_formed = false;
        self.num_worlds += 1;
        Ok(())
    }

    fn commit(&mut self, entry: &Entry) -> Result<(), Finding> {
        let Some(world) = self.world.filter(|_| self.is_formed) else {
            let expected = "none: no generation is formed here";
            return Err(differs("a committed step", entry.step, expected));
        };
        if entry.generation != world.generation {
            return Err(differs("generation", entry.generation, world.generation));
        }
        if entry.world_size != world.world_size {
            return Err(differs("world_size", entry.world_size, world.world_size));
        }
        let next = self.committed + 1;
        if entry.step != next {
            return Err(differs("the committed step", entry.step, next));
        }
        self.committed = next;
        self.num_steps += 1;
        Ok(())
    }

    fn hold_committed(&self, committed: u64) -> Result<(), Finding> {
        if committed == self.committed {
            return Ok(());
        }
        Err(differs("committed", committed, self.committed))
    }

    fn give_up(&mut self) {
        self.world = None;
        self.is_formed = false;
    }
}

fn differs(
    field: &str,
    found: impl std::fmt::Display,
    expected: impl std::fmt::Display,
) -> Finding {
    Finding::in_file(JOURNAL, field, found, expected)
}
