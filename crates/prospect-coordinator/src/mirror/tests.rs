mod background;
mod damage;
mod made_up;
mod restore;
mod s3;

use std::fs;

use prospect_core::{ExitCode, Step};

use super::records;
use super::{Mirror, MirrorError};
use made_up::{MadeUpRun, in_memory};

/// Uploads the checkpoint of a step with the records as they are.
async fn upload(mirror: &Mirror, run: &MadeUpRun, step: u64) -> Result<usize, MirrorError> {
    let records = records::open(run.root()).unwrap();
    let uploaded = mirror.upload(Step(step), &run.checkpoint_dir(step), &records).await?;
    Ok(uploaded.num_files)
}

#[track_caller]
fn check_refused(url: &str, expected: &str) {
    let error = Mirror::open(url).unwrap_err();
    let message = error.to_string();
    assert_eq!(error.exit_code(), ExitCode::Usage, "{message}");
    assert!(message.contains("checkpoint.mirror") && message.contains(expected), "{message}");
}

#[test]
fn urls_that_name_no_store_are_refused_with_what_to_write() {
    check_refused("/data/copies", "relative URL without a base; set it to s3://BUCKET/PREFIX");
    check_refused("ftp://host/copies", "Unable to recognise URL");
    check_refused("memory:///", "no store is known by \"memory\"");
    check_refused("file://copies", "file:///DIRECTORY");
    check_refused("http://host/copies", "no store is known by \"http\"");
}

#[test]
fn secrets_of_a_url_are_not_in_the_name() {
    let mirror = Mirror::open("s3://bucket/runs/one?key=secret").unwrap();
    assert_eq!(mirror.name, "s3://bucket/runs/one");
    assert_eq!(mirror.place(Step(7), "model/a").to_string(), "runs/one/step-000007/model/a");
    assert_eq!(
        Mirror::open("gs://bucket").unwrap().place(Step(7), "a").to_string(),
        "step-000007/a"
    );
}

#[tokio::test]
async fn a_copy_gives_back_what_was_copied() {
    let (mirror, run) = (in_memory(), MadeUpRun::new());
    assert_eq!(mirror.newest(None).await.unwrap(), None);
    for step in [4, 8] {
        run.checkpoint(step);
        assert_eq!(upload(&mirror, &run, step).await.unwrap(), 9);
    }
    assert_eq!(mirror.complete(None).await.unwrap(), [Step(8), Step(4)]);
    assert_eq!(mirror.newest(Some(Step(7))).await.unwrap(), Some(Step(4)));
    assert_eq!(mirror.newest(Some(Step(3))).await.unwrap(), None);

    let dir = tempfile::tempdir().unwrap();
    let staged = dir.path().join("staged");
    mirror.download(Step(8), &staged).await.unwrap();
    assert_eq!(made_up::files(&staged), made_up::files(&run.checkpoint_dir(8)));
    let taken = dir.path().join("records");
    let names = mirror.download_records(Step(8), &taken).await.unwrap();
    let expected = ["manifest.json", "run.toml", "metrics.jsonl", "journal.jsonl"];
    assert_eq!(names, expected);
    for name in names {
        let read = |root: &std::path::Path| fs::read(root.join(name)).unwrap();
        assert_eq!(read(&taken), read(run.root()));
    }
}

#[tokio::test]
async fn copying_again_is_harmless() {
    let (mirror, run) = (in_memory(), MadeUpRun::new());
    run.checkpoint(4);
    upload(&mirror, &run, 4).await.unwrap();
    assert_eq!(upload(&mirror, &run, 4).await.unwrap(), 0);
    // Another checkpoint of the step takes the place of the first.
    fs::remove_dir_all(run.checkpoint_dir(4)).unwrap();
    run.checkpoint_of(4, "other weights");
    assert_eq!(upload(&mirror, &run, 4).await.unwrap(), 9);
    let dir = tempfile::tempdir().unwrap();
    let staged = dir.path().join("staged");
    mirror.download(Step(4), &staged).await.unwrap();
    assert_eq!(made_up::files(&staged), made_up::files(&run.checkpoint_dir(4)));
}

#[tokio::test]
async fn large_files_go_in_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}/copies", dir.path().display());
    let (mirror, run) = (Mirror::open(&url).unwrap(), MadeUpRun::new());
    // Not a whole number of pieces.
    run.checkpoint_of(4, &"0123456789abcde".repeat(1_200_000));
    upload(&mirror, &run, 4).await.unwrap();
    let staged = dir.path().join("staged");
    mirror.download(Step(4), &staged).await.unwrap();
    assert!(made_up::files(&staged) == made_up::files(&run.checkpoint_dir(4)));
}

#[tokio::test]
async fn pruning_keeps_the_newest_complete_copies() {
    let (mirror, run) = (in_memory(), MadeUpRun::new());
    for step in [2, 4, 6, 8] {
        run.checkpoint(step);
        upload(&mirror, &run, step).await.unwrap();
    }
    // What is left of uploads that were cut short, before and after the newest complete copy.
    for step in [2, 8] {
        mirror.delete(&mirror.place(Step(step), "MANIFEST.json")).await.unwrap();
    }
    assert_eq!(mirror.prune(0).await.unwrap(), []);
    assert_eq!(mirror.prune(2).await.unwrap(), [Step(2)]);
    assert_eq!(mirror.prune(1).await.unwrap(), [Step(4)]);
    assert_eq!(mirror.prune(1).await.unwrap(), []);
    assert_eq!(mirror.complete(None).await.unwrap(), [Step(6)]);
    assert_eq!(mirror.steps().await.unwrap(), [Step(8), Step(6)]);
}
