//! Which checkpoint a run goes on from, and which are kept. The workers write
//! checkpoints; here they are only verified and removed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};

use prospect_core::Step;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::CoordinatorError;

/// The manifest of a checkpoint, written last.
pub(crate) const MANIFEST: &str = "MANIFEST.json";
/// Prefix of directories that are being removed.
const REMOVING: &str = ".removing-";

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

/// The checkpoints that are known to be intact.
#[derive(Clone, Debug)]
pub(crate) struct Retention {
    dir: PathBuf,
    keep: usize,
    intact: BTreeSet<Step>,
}

#[derive(Deserialize)]
struct Manifest {
    format: u32,
    step: u64,
    files: BTreeMap<String, FileEntry>,
}

#[derive(Deserialize)]
struct FileEntry {
    bytes: u64,
    sha256: String,
}

/// Looks for the newest intact checkpoint whose step is on record, that is at most `recorded`.
///
/// # Errors
/// Damaged checkpoints and none that can be used, or a directory that cannot be read.
pub(crate) fn choose(dir: &Path, recorded: Step) -> Result<Choice, CoordinatorError> {
    let mut choice = Choice::default();
    for step in steps(dir)?.into_iter().rev() {
        let path = dir.join(step.directory_name());
        let reject = match verify(&path, step) {
            Err(reason) => Rejected { step, reason, is_damaged: true },
            Ok(()) if step > recorded => Rejected {
                step,
                reason: format!(
                    "metrics.jsonl ends at step {recorded}, so the steps up to it are done again"
                ),
                is_damaged: false,
            },
            Ok(()) => {
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

/// Steps of all checkpoint directories, ascending.
pub(crate) fn steps(dir: &Path) -> Result<Vec<Step>, CoordinatorError> {
    let failed = || CoordinatorError::storage("listing", dir);
    let mut steps = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed())? {
        let name = entry.map_err(failed())?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("step-")?.parse().ok());
        steps.extend(
            number.map(Step).filter(|step| *step.directory_name() == *name.to_string_lossy()),
        );
    }
    steps.sort_unstable();
    Ok(steps)
}

/// Holds every file of a checkpoint against its manifest.
pub(crate) fn verify(path: &Path, step: Step) -> Result<(), String> {
    let file = path.join(MANIFEST);
    let bytes = fs::read(&file).map_err(|error| format!("{MANIFEST}: {error}"))?;
    let manifest: Manifest =
        serde_json::from_slice(&bytes).map_err(|error| format!("{MANIFEST}: {error}"))?;
    if manifest.format != 1 {
        return Err(format!("{MANIFEST}: format {} is not known, expected 1", manifest.format));
    }
    if manifest.step != step.0 {
        return Err(format!("{MANIFEST}: it is of step {}", manifest.step));
    }
    if manifest.files.is_empty() {
        return Err(format!("{MANIFEST}: it names no files"));
    }
    manifest.files.iter().try_for_each(|(name, entry)| {
        verify_file(path, name, entry).map_err(|problem| format!("{name}: {problem}"))
    })
}

fn verify_file(dir: &Path, name: &str, entry: &FileEntry) -> Result<(), String> {
    let relative = Path::new(name);
    if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err("the name leads out of the checkpoint".to_owned());
    }
    let path = dir.join(relative);
    let found = fs::metadata(&path).map_err(|error| error.to_string())?.len();
    if found != entry.bytes {
        return Err(format!("it has {found} bytes, expected {}", entry.bytes));
    }
    let digest = file_sha256(&path).map_err(|error| error.to_string())?;
    if digest.eq_ignore_ascii_case(&entry.sha256) {
        return Ok(());
    }
    Err(format!("its sha256 is {digest}, expected {}", entry.sha256))
}

/// SHA-256 of a file in hexadecimal.
pub(crate) fn file_sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Retention {
    /// Keeps `keep` checkpoints, all of them for 0. `verified` is known to be intact.
    pub(crate) fn new(dir: PathBuf, keep: u32, verified: Option<Step>) -> Self {
        let keep = if keep == 0 { usize::MAX } else { keep as usize };
        Self { dir, keep, intact: verified.into_iter().collect() }
    }

    /// Takes in a checkpoint that a worker reports as durable, if its manifest is
    /// the one that the worker wrote.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(crate) fn add(&mut self, step: Step, manifest_sha256: &str) -> Result<(), String> {
        let path = self.dir.join(step.directory_name()).join(MANIFEST);
        let digest = file_sha256(&path).map_err(|error| format!("{MANIFEST}: {error}"))?;
        if !digest.eq_ignore_ascii_case(manifest_sha256) {
            return Err(format!("{MANIFEST}: its sha256 is {digest}, not {manifest_sha256}"));
        }
        self.intact.insert(step);
        Ok(())
    }

    /// Removes what is older than the newest ones to be kept. Only intact ones
    /// count as kept, so the last intact one never goes.
    ///
    /// # Errors
    /// A directory that cannot be listed or removed.
    pub(crate) fn prune(&mut self) -> Result<Vec<Step>, CoordinatorError> {
        // `keep` is at least 1, and more than there can be when all are kept.
        let Some(&oldest_kept) = self.intact.iter().rev().nth(self.keep - 1) else {
            return Ok(Vec::new());
        };
        let mut removed = Vec::new();
        for step in steps(&self.dir)?.into_iter().filter(|&step| step < oldest_kept) {
            // Under another name first, so that no reader takes half a checkpoint for a whole one.
            let path = self.dir.join(step.directory_name());
            let doomed = self.dir.join(format!("{REMOVING}{}", step.directory_name()));
            let remove = || fs::rename(&path, &doomed).and_then(|()| fs::remove_dir_all(&doomed));
            remove().map_err(CoordinatorError::storage("removing", &path))?;
            self.intact.remove(&step);
            removed.push(step);
        }
        Ok(removed)
    }
}

/// Finishes removals that a crash cut short.
pub(crate) fn remove_leftovers(dir: &Path) -> Result<(), CoordinatorError> {
    let failed = || CoordinatorError::storage("listing", dir);
    for entry in fs::read_dir(dir).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        if entry.file_name().to_string_lossy().starts_with(REMOVING) {
            fs::remove_dir_all(entry.path())
                .map_err(CoordinatorError::storage("removing", &entry.path()))?;
        }
    }
    Ok(())
}
