//! The task that copies checkpoints while the run goes on.

use std::fs;

use prospect_core::{CheckpointConfig, Resume, Step};

use super::made_up::{MadeUpRun, in_memory};
use crate::mirror::hooks::{FAILED, MIRRORED};
use crate::mirror::{Mirror, MirrorHandle, next_event, start};
use crate::run_dir::RunDir;

#[tokio::test]
async fn checkpoints_are_copied_with_the_records_of_their_moment() {
    let (mirror, run) = (in_memory(), MadeUpRun::new());
    let mut handle = Some(MirrorHandle::new(mirror.clone(), 1, run.root()));
    for step in [4, 8] {
        run.checkpoint(step);
        handle.as_ref().unwrap().checkpoint_durable(Step(step));
        // What comes later is not part of the copy, and neither is a file that is put in place.
        run.note("later");
        let event = next_event(&mut handle).await;
        assert_eq!((event.kind, event.step), (MIRRORED, Step(step)), "{}", event.message);
        let expected = format!("{} copied since the start", step / 4);
        assert!(event.message.contains("9 files") && event.message.ends_with(&expected));
    }
    assert_eq!(handle.unwrap().close().await, []);
    // The first was pruned.
    assert_eq!(mirror.steps().await.unwrap(), [Step(8)]);
    let taken = tempfile::tempdir().unwrap();
    let records = taken.path().join("records");
    mirror.download_records(Step(8), &records).await.unwrap();
    let journal = fs::read_to_string(records.join("journal.jsonl")).unwrap();
    assert_eq!(journal.lines().count(), 2);
}

#[tokio::test]
async fn the_newest_of_those_that_wait_is_copied_before_the_end() {
    let (mirror, run) = (in_memory(), MadeUpRun::new());
    let handle = MirrorHandle::new(mirror.clone(), 0, run.root());
    // The task has had no turn yet.
    for step in [2, 4, 6] {
        run.checkpoint(step);
        handle.checkpoint_durable(Step(step));
    }
    let told = handle.close().await;
    assert_eq!(told.iter().map(|event| event.step).collect::<Vec<_>>(), [Step(6)]);
    assert_eq!(mirror.complete(None).await.unwrap(), [Step(6)]);
}

#[tokio::test]
async fn a_mirror_that_fails_only_tells_so() {
    let (dir, run) = (tempfile::tempdir().unwrap(), MadeUpRun::new());
    let blocked = dir.path().join("blocked");
    fs::write(&blocked, "a file, no directory").unwrap();
    let mirror = Mirror::open(&format!("file://{}", blocked.display())).unwrap();
    let mut handle = Some(MirrorHandle::new(mirror, 2, run.root()));
    for (number, step) in [(1, 4), (2, 8)] {
        run.checkpoint(step);
        handle.as_ref().unwrap().checkpoint_durable(Step(step));
        let event = next_event(&mut handle).await;
        assert_eq!((event.kind, event.step), (FAILED, Step(step)), "{}", event.message);
        let expected = format!("{number} in a row were not, the run goes on");
        assert!(event.message.ends_with(&expected), "{}", event.message);
    }
    // A checkpoint that was removed in the meantime is no failure.
    handle.as_ref().unwrap().checkpoint_durable(Step(12));
    assert_eq!(handle.unwrap().close().await, []);
}

#[tokio::test]
async fn without_a_mirror_there_is_no_task() {
    let root = tempfile::tempdir().unwrap();
    let run_dir = RunDir::open(root.path(), Resume::Auto).unwrap();
    assert!(start(&CheckpointConfig::default(), &run_dir).unwrap().is_none());
    let bad = CheckpointConfig { mirror: Some("nowhere".into()), ..CheckpointConfig::default() };
    assert!(start(&bad, &run_dir).is_err());
}
