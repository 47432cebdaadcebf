//! The way back: a copy onto a fresh disk, or into a run directory without a checkpoint.

use std::fs;
use std::path::Path;

use prospect_core::{CheckpointConfig, Resume, Step};

use super::{Mirror, MirrorError};
use crate::CoordinatorError;
use crate::records::recorded_step;
use crate::run_dir::RunDir;
use crate::run_dir::checkpoints::{self, Depth, Manifest};
use crate::run_dir::publish::{self, PublishError, publish_checkpoint};

/// What is being taken from a mirror, in `checkpoints` and in the run directory.
const STAGED: &str = ".staged-mirror";

/// What is taken from a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// The checkpoint only: the run directory has its records.
    Checkpoint,
    /// All: the disk is fresh.
    Whole,
}

/// Takes the newest copy of the mirror, if there is one, where the run directory has no checkpoint
/// that can be used: on a fresh disk with the run's records, otherwise the checkpoint only, up to
/// the last step on record. Returns what was done, in words.
///
/// # Errors
/// A mirror that cannot be used, copies of which none is intact, or a disk that fails.
pub(crate) async fn restore_if_empty(
    config: &CheckpointConfig,
    run_dir: &RunDir,
) -> Result<Option<String>, CoordinatorError> {
    let Some(url) = &config.mirror else { return Ok(None) };
    let mirror = Mirror::open(url)?;
    let is_fresh = fs::metadata(run_dir.journal()).map_or(true, |journal| journal.len() == 0);
    let wanted = if is_fresh { Wanted::Whole } else { Wanted::Checkpoint };
    let at_most = match wanted {
        Wanted::Whole => None,
        Wanted::Checkpoint => {
            let recorded = recorded_step(run_dir)?;
            if recorded == Step(0) || has_checkpoint(run_dir, recorded)? {
                return Ok(None);
            }
            Some(recorded)
        }
    };
    if wanted == Wanted::Whole && config.resume == Resume::Never {
        return match mirror.newest(None).await? {
            None => Ok(None),
            Some(step) => Err(MirrorError::Taken { mirror: mirror.name, step }.into()),
        };
    }
    let mut problems = Vec::new();
    for step in mirror.complete(at_most).await? {
        match take(&mirror, step, wanted, run_dir).await {
            Ok(()) => return Ok(Some(describe(&mirror, step, wanted, &problems))),
            Err(MirrorError::Differs { place, problem }) => {
                problems.push(format!("{place}: {problem}"));
            }
            Err(error) => return Err(error.into()),
        }
    }
    if problems.is_empty() {
        return Ok(None);
    }
    Err(MirrorError::Damaged { mirror: mirror.name, problems: problems.join("; ") }.into())
}

fn describe(mirror: &Mirror, step: Step, wanted: Wanted, problems: &[String]) -> String {
    let what = match wanted {
        Wanted::Whole => "the run's records and ",
        Wanted::Checkpoint => "",
    };
    let mut message = format!("took {what}{} from {}", step.directory_name(), mirror.name);
    for problem in problems {
        message.push_str(&format!("; a newer copy cannot be used: {problem}"));
    }
    message
}

/// Whether there is a checkpoint up to `recorded` whose files have the right sizes.
fn has_checkpoint(run_dir: &RunDir, recorded: Step) -> Result<bool, CoordinatorError> {
    let dir = run_dir.checkpoints();
    let is_whole = |step: &Step| {
        Manifest::verify(&dir.join(step.directory_name()), *step, Depth::Sizes).is_ok()
    };
    Ok(checkpoints::steps(&dir)?.iter().filter(|step| **step <= recorded).any(is_whole))
}

/// Takes a copy into the run directory: the records before the checkpoint, the journal last of
/// them. A crash on the way leaves a directory for which the next start does the rest.
async fn take(
    mirror: &Mirror,
    step: Step,
    wanted: Wanted,
    run_dir: &RunDir,
) -> Result<(), MirrorError> {
    let name = format!("checkpoints/{STAGED}");
    let staged = run_dir.root().join(&name);
    remove(&staged)?;
    let manifest_sha256 = mirror.download(step, &staged).await?;
    // As strictly as a start looks at it, now that its digests are known to be right.
    if let Err(problem) = Manifest::verify(&staged, step, Depth::Sizes) {
        remove(&staged)?;
        return Err(MirrorError::differs(mirror.place(step, ""), problem));
    }
    if wanted == Wanted::Whole {
        let records = run_dir.root().join(STAGED);
        remove(&records)?;
        let names = match mirror.download_records(step, &records).await {
            Ok(names) => names,
            Err(error) => {
                remove(&staged)?;
                return Err(error);
            }
        };
        for name in names {
            let place = run_dir.root().join(name);
            fs::rename(records.join(name), &place)
                .map_err(MirrorError::storage("moving into place", &place))?;
            // One after the other, also for a disk that loses power.
            fs::File::open(run_dir.root())
                .and_then(|dir| dir.sync_all())
                .map_err(MirrorError::storage("syncing", run_dir.root()))?;
        }
        remove(&records)?;
    }
    // What lies there is damaged, or it would have been used.
    remove(&run_dir.checkpoints().join(step.directory_name()))?;
    match publish_checkpoint(run_dir.root(), step, &name, &manifest_sha256) {
        Ok(_) => Ok(()),
        Err(PublishError::Storage { path, action, source }) => {
            Err(MirrorError::Storage { path, action, source })
        }
        Err(error) => Err(MirrorError::differs(name, error)),
    }
}

fn remove(path: &Path) -> Result<(), MirrorError> {
    publish::remove(path).map_err(MirrorError::storage("removing", path))
}
