//! How the ranks that write one checkpoint tell rank 0 that their parts are there: each leaves a
//! small file beside its own, with what it has written or why it could not. Rank 0 removes them.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::manifest::{Records, read_json};
use crate::progress::Progress;
use crate::{TrainError, storage};

/// How often rank 0 looks for the others' files.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Says what this rank has written. What it tells of is durable by then.
pub(super) fn tell_written(dir: &Path, rank: usize, records: &Records) -> Result<(), TrainError> {
    let path = written_path(dir, rank);
    let text = serde_json::to_vec(records)
        .map_err(|error| TrainError::damaged(&path, format!("cannot be encoded: {error}")))?;
    put(&path, &text)
}

/// Says why there will be nothing of this rank.
pub(super) fn tell_failed(dir: &Path, rank: usize, reason: &str) -> Result<(), TrainError> {
    put(&failed_path(dir, rank), reason.as_bytes())
}

/// Waits until every rank but 0 has said something, as long as files grow: `patience` without that is
/// too long. Returns what was written: files that are there in their whole length.
pub(super) fn collect(
    dir: &Path,
    num_parts: usize,
    patience: Duration,
    progress: &Progress,
) -> Result<Records, TrainError> {
    let mut records = Records::new();
    let mut failed: Option<(usize, String)> = None;
    let mut waiting: Vec<usize> = (1..num_parts).collect();
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        let mut still_waiting = Vec::new();
        for rank in waiting {
            let (written, refused) = (written_path(dir, rank), failed_path(dir, rank));
            if written.exists() {
                let told: Records = read_json(&written)?;
                let looked = told.iter().map(|(name, of)| of.verify_len(&dir.join(name)));
                if let Err(error) = looked.collect::<Result<(), _>>() {
                    failed.get_or_insert((rank, error.to_string()));
                }
                records.extend(told);
                remove(&written)?;
            } else if refused.exists() {
                let reason =
                    fs::read_to_string(&refused).map_err(TrainError::storage("read", &refused))?;
                remove(&refused)?;
                failed.get_or_insert((rank, reason));
            } else {
                still_waiting.push(rank);
            }
        }
        waiting = still_waiting;
        let Some(&rank) = waiting.first() else { break };
        let found = storage::total_bytes(dir);
        if found != seen {
            progress.tick();
            (seen, since) = (found, Instant::now());
        }
        if since.elapsed() > patience {
            let problem = format!("nothing was written for {:.1} s", patience.as_secs_f64());
            return Err(TrainError::Part { rank, problem });
        }
        thread::sleep(LOOK_INTERVAL.min(patience));
    }
    match failed {
        Some((rank, problem)) => Err(TrainError::Part { rank, problem }),
        None => Ok(records),
    }
}

/// Writes a file that is whole as soon as it has its name.
fn put(path: &Path, text: &[u8]) -> Result<(), TrainError> {
    let partial = path.with_extension("partial");
    storage::write(&partial, text)?;
    fs::rename(&partial, path).map_err(TrainError::storage("write", path))
}

fn remove(path: &Path) -> Result<(), TrainError> {
    fs::remove_file(path).map_err(TrainError::storage("remove", path))
}

fn written_path(dir: &Path, rank: usize) -> PathBuf {
    dir.join(format!(".part-{rank:05}.json"))
}

fn failed_path(dir: &Path, rank: usize) -> PathBuf {
    dir.join(format!(".part-{rank:05}.failed"))
}
