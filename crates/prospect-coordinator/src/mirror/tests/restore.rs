//! The way back onto a disk that holds nothing, or no checkpoint that can be used.

use std::fs;
use std::path::Path;

use prospect_core::Step;
use prospect_core::{CheckpointConfig, ExitCode, Resume, StepMetrics};
use tempfile::TempDir;

use super::made_up::{MadeUpRun, files};
use super::upload;
use crate::CoordinatorError;
use crate::mirror::{Mirror, restore_if_empty};
use crate::run_dir::RunDir;

/// A mirror in a directory, with copies of steps 4 and 8 of a run.
struct Copies {
    dir: TempDir,
    run: MadeUpRun,
}

impl Copies {
    async fn new() -> Self {
        let copies = Self { dir: tempfile::tempdir().unwrap(), run: MadeUpRun::new() };
        for step in [4, 8] {
            copies.run.checkpoint(step);
            copies.run.note("checkpoint_saved");
            upload(&copies.mirror(), &copies.run, step).await.unwrap();
        }
        copies
    }

    fn mirror(&self) -> Mirror {
        Mirror::open(&self.url()).unwrap()
    }

    fn url(&self) -> String {
        format!("file://{}", self.dir.path().display())
    }

    fn place(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    async fn restore(&self, root: &Path) -> Result<Option<String>, CoordinatorError> {
        let config = CheckpointConfig { mirror: Some(self.url()), ..CheckpointConfig::default() };
        restore_if_empty(&config, &RunDir::open(root, Resume::Auto).unwrap()).await
    }

    /// Restores onto a fresh disk and expects the checkpoint of a step with its records.
    async fn check_whole(&self, step: u64, lines: usize, said: &str) {
        let fresh = tempfile::tempdir().unwrap();
        let message = self.restore(fresh.path()).await.unwrap().unwrap();
        assert!(message.contains(said), "{message}");
        let place = fresh.path().join("checkpoints").join(Step(step).directory_name());
        assert_eq!(files(&place), files(&self.run.checkpoint_dir(step)));
        let journal = fs::read_to_string(fresh.path().join("journal.jsonl")).unwrap();
        assert_eq!(journal.lines().count(), lines);
        // Nothing is left of the way.
        let names = |dir: &Path| -> Vec<String> {
            let entries = fs::read_dir(dir).unwrap();
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
        };
        let left: Vec<_> = names(fresh.path())
            .into_iter()
            .chain(names(&fresh.path().join("checkpoints")))
            .filter(|name| name.starts_with('.'))
            .collect();
        assert!(left.is_empty(), "{left:?}");
        // A second start finds all in its place.
        assert_eq!(self.restore_again(fresh.path(), step).await, None);
    }

    /// As a start would after the restored steps are on record.
    async fn restore_again(&self, root: &Path, step: u64) -> Option<String> {
        record_steps(root, step);
        self.restore(root).await.unwrap()
    }
}

/// Puts metrics of so many steps on record.
fn record_steps(root: &Path, steps: u64) {
    let line = |step| {
        let metrics = StepMetrics { step: Step(step), ..StepMetrics::default() };
        serde_json::to_string(&metrics).unwrap() + "\n"
    };
    fs::write(root.join("metrics.jsonl"), (1..=steps).map(line).collect::<String>()).unwrap();
}

#[tokio::test]
async fn a_fresh_disk_gets_the_newest_copy_with_its_records() {
    let copies = Copies::new().await;
    copies.check_whole(8, 3, "took the run's records and step-000008 from file://").await;
}

#[tokio::test]
async fn an_older_copy_is_taken_where_the_newest_is_damaged() {
    let copies = Copies::new().await;
    fs::write(copies.place("step-000008/state.json"), "{\"step\":9}").unwrap();
    copies.check_whole(4, 2, "step-000008/state.json: its sha256 is").await;
    fs::remove_file(copies.place("step-000004/records/journal.jsonl")).unwrap();
    let fresh = tempfile::tempdir().unwrap();
    let error = copies.restore(fresh.path()).await.unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Corrupt);
    assert!(error.to_string().contains("journal.jsonl: it is not there"), "{error}");
    // A later start begins with the same nothing.
    assert!(!fresh.path().join("journal.jsonl").exists());
    assert_eq!(files(&fresh.path().join("checkpoints")).len(), 0);
}

#[tokio::test]
async fn a_run_without_a_checkpoint_gets_one_that_is_on_record() {
    let copies = Copies::new().await;
    let run = MadeUpRun::new();
    record_steps(run.root(), 6);
    let journal = fs::read(run.root().join("journal.jsonl")).unwrap();
    let message = copies.restore(run.root()).await.unwrap().unwrap();
    assert!(message.starts_with("took step-000004 from"), "{message}");
    assert_eq!(files(&run.checkpoint_dir(4)), files(&copies.run.checkpoint_dir(4)));
    assert_eq!(fs::read(run.root().join("journal.jsonl")).unwrap(), journal);
    // There is one now.
    assert_eq!(copies.restore(run.root()).await.unwrap(), None);
    // One that is cut off is no checkpoint.
    fs::write(run.checkpoint_dir(4).join("state.json"), "").unwrap();
    assert!(copies.restore(run.root()).await.unwrap().is_some());
    assert_eq!(files(&run.checkpoint_dir(4)), files(&copies.run.checkpoint_dir(4)));
}

#[tokio::test]
async fn a_run_without_steps_on_record_takes_nothing() {
    let copies = Copies::new().await;
    assert_eq!(copies.restore(MadeUpRun::new().root()).await.unwrap(), None);
}

#[tokio::test]
async fn an_empty_mirror_gives_nothing_and_one_in_use_is_not_written_over() {
    let (copies, fresh) = (Copies::new().await, tempfile::tempdir().unwrap());
    let run_dir = RunDir::open(fresh.path(), Resume::Never).unwrap();
    let empty = CheckpointConfig {
        mirror: Some(format!("{}/other", copies.url())),
        ..CheckpointConfig::default()
    };
    assert_eq!(restore_if_empty(&empty, &run_dir).await.unwrap(), None);
    let never = CheckpointConfig {
        mirror: Some(copies.url()),
        resume: Resume::Never,
        ..CheckpointConfig::default()
    };
    let error = restore_if_empty(&never, &run_dir).await.unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Usage);
    assert!(error.to_string().contains("already holds the checkpoint of step 8"), "{error}");
    let none = restore_if_empty(&CheckpointConfig::default(), &run_dir).await.unwrap();
    assert_eq!(none, None);
}
