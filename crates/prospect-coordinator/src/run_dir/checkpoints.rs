//! Which checkpoint a run goes on from, and which are kept. The workers write
//! checkpoints; here they are only verified and removed.

mod manifest;
mod retention;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::Path;

use prospect_core::Step;

#[cfg(test)]
pub(crate) use self::manifest::file_sha256;
pub(crate) use self::manifest::{Depth, MANIFEST, Manifest};
pub(crate) use self::retention::Retention;
use crate::CoordinatorError;

/// What the search for a checkpoint found.
#[derive(Debug, Default)]
pub(crate) struct Choice {
    /// The newest one that can be used.
    pub(crate) step: Option<Step>,
    /// Newer ones that cannot.
    pub(crate) rejected: Vec<Rejected>,
}

/// A checkpoint that is not used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rejected {
    /// Its step.
    pub(crate) step: Step,
    /// Why.
    pub(crate) reason: String,
    /// Whether its files are at fault, and not only the record.
    pub(crate) is_damaged: bool,
}

/// Looks for the newest intact checkpoint whose step is on record, that is at most `recorded`.
///
/// # Errors
/// Damaged checkpoints and none that can be used, or a directory that cannot be read.
pub(crate) fn choose(dir: &Path, recorded: Step) -> Result<Choice, CoordinatorError> {
    let mut choice = Choice::default();
    for step in steps(dir)?.into_iter().rev() {
        let reject = match Manifest::verify(&dir.join(step.directory_name()), step, Depth::Digests)
        {
            Err(reason) => Rejected { step, reason, is_damaged: true },
            Ok(_) if step > recorded => Rejected {
                step,
                reason: format!(
                    "the record ends at step {recorded}, so the steps up to it are done again"
                ),
                is_damaged: false,
            },
            Ok(_) => {
                choice.step = Some(step);
                return Ok(choice);
            }
        };
        choice.rejected.push(reject);
    }
    let damaged: Vec<String> = choice
        .rejected
        .iter()
        .filter(|rejected| rejected.is_damaged)
        .map(|rejected| format!("step {}: {}", rejected.step, rejected.reason))
        .collect();
    if damaged.is_empty() {
        return Ok(choice);
    }
    Err(CoordinatorError::Damaged {
        path: dir.to_owned(),
        problem: format!(
            "no checkpoint is intact ({}); restore one, or remove them all to begin at step 1",
            damaged.join("; ")
        ),
    })
}

/// Steps of all that has the name of a checkpoint, ascending.
pub(crate) fn steps(dir: &Path) -> Result<Vec<Step>, CoordinatorError> {
    let failed = || CoordinatorError::storage("listing", dir);
    let mut steps = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed())? {
        let name = entry.map_err(failed())?.file_name();
        let Some(name) = name.to_str() else { continue };
        let step = name.strip_prefix("step-").and_then(|number| number.parse().ok()).map(Step);
        steps.extend(step.filter(|step| step.directory_name() == name));
    }
    steps.sort_unstable();
    Ok(steps)
}
