//! Uploads that are cut short and copies that are damaged: none counts.

use std::fs;

use object_store::ObjectStoreExt as _;
use prospect_core::Step;
use serde_json::json;
use tokio_stream::StreamExt as _;

use super::made_up::{MadeUpRun, in_memory};
use super::upload;
use crate::mirror::{Mirror, MirrorError};

/// Damages a file of the run's checkpoint of step 8 and expects that it is not copied.
async fn check_not_uploaded(damage: impl FnOnce(&MadeUpRun), expected: &str) {
    let (mirror, run) = (in_memory(), MadeUpRun::new());
    for step in [4, 8] {
        run.checkpoint(step);
    }
    upload(&mirror, &run, 4).await.unwrap();
    damage(&run);
    let error = upload(&mirror, &run, 8).await.unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
    assert_eq!(mirror.complete(None).await.unwrap(), [Step(4)]);
}

#[tokio::test]
async fn what_is_not_as_the_manifest_says_is_never_a_complete_copy() {
    let weights = "optimizer.safetensors";
    let file = |run: &MadeUpRun, name| run.checkpoint_dir(8).join(name);
    check_not_uploaded(|run| fs::remove_file(file(run, weights)).unwrap(), "opening failed").await;
    let cut = |run: &MadeUpRun| fs::write(file(run, weights), "weights of s").unwrap();
    check_not_uploaded(cut, "it has fewer than 17 bytes").await;
    let flipped = |run: &MadeUpRun| fs::write(file(run, weights), "weights of step 9").unwrap();
    check_not_uploaded(flipped, "its sha256 is").await;
    let empty = |run: &MadeUpRun| fs::write(file(run, "MANIFEST.json"), "").unwrap();
    check_not_uploaded(empty, "MANIFEST.json: EOF").await;
    let mixed = |run: &MadeUpRun| {
        fs::copy(run.checkpoint_dir(4).join("MANIFEST.json"), file(run, "MANIFEST.json")).unwrap();
    };
    check_not_uploaded(mixed, "it is of step 4").await;
}

#[tokio::test]
async fn a_copy_that_is_being_replaced_is_not_complete() {
    let (mirror, run) = (in_memory(), MadeUpRun::new());
    run.checkpoint(8);
    upload(&mirror, &run, 8).await.unwrap();
    run.checkpoint_of(8, "other weights");
    fs::write(run.checkpoint_dir(8).join("state.json"), "cut").unwrap();
    upload(&mirror, &run, 8).await.unwrap_err();
    assert_eq!(mirror.newest(None).await.unwrap(), None);
}

/// What is done to an object.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Remove,
    Cut,
    Flip,
    Lengthen,
}

/// Expects that a copy with one damaged object is not taken, and that nothing of it stays.
async fn check_not_taken(mirror: &Mirror, place: &object_store::path::Path, damage: Damage) {
    let whole = mirror.store.get(place).await.unwrap().bytes().await.unwrap().to_vec();
    let mut content = whole.clone();
    match damage {
        Damage::Remove => {}
        Damage::Cut => content.truncate(whole.len() / 2),
        Damage::Flip => content[whole.len() / 2] ^= 1,
        Damage::Lengthen => content.push(b'x'),
    }
    match damage {
        Damage::Remove => mirror.delete(place).await.unwrap(),
        _ => mirror.store.put(place, content.into()).await.map(|_| ()).unwrap(),
    }
    let dir = tempfile::tempdir().unwrap();
    let (staged, records) = (dir.path().join("staged"), dir.path().join("records"));
    let taken = async {
        mirror.download(Step(8), &staged).await?;
        mirror.download_records(Step(8), &records).await
    };
    let error = taken.await.unwrap_err();
    assert!(matches!(error, MirrorError::Differs { .. }), "{place} {damage:?}: {error}");
    let left = [&staged, &records].iter().filter(|dir| dir.exists()).count();
    // The one that is not damaged may be there.
    assert!(left <= 1, "{place} {damage:?}");
    mirror.store.put(place, whole.into()).await.unwrap();
}

#[tokio::test]
async fn no_damaged_object_is_ever_taken() {
    let (mirror, run) = (in_memory(), MadeUpRun::new());
    run.checkpoint(8);
    // An empty file could not be cut or flipped.
    for name in ["run.toml", "metrics.jsonl"] {
        fs::write(run.root().join(name), "some lines\n").unwrap();
    }
    upload(&mirror, &run, 8).await.unwrap();
    let objects: Vec<_> = mirror.store.list(Some(&mirror.root)).collect().await;
    assert_eq!(objects.len(), 9);
    for object in objects {
        let place = object.unwrap().location;
        for damage in [Damage::Remove, Damage::Cut, Damage::Flip, Damage::Lengthen] {
            // The manifest is what all is held against; its own bits are held against the list
            // of files and the step only.
            let is_list = place.as_ref().ends_with("MANIFEST.json")
                || place.as_ref().ends_with("RECORDS.json");
            if !is_list || matches!(damage, Damage::Remove | Damage::Cut | Damage::Lengthen) {
                check_not_taken(&mirror, &place, damage).await;
            }
        }
    }
}

#[tokio::test]
async fn a_copy_cannot_write_elsewhere() {
    let mirror = in_memory();
    for name in ["../outside", "/etc/outside", "a/../../outside"] {
        let files = json!({name: {"bytes": 1, "sha256": "00"}});
        let manifest = json!({"format": 1, "step": 8, "world_size": 1, "files": files});
        let place = mirror.place(Step(8), "MANIFEST.json");
        mirror.store.put(&place, manifest.to_string().into()).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let error = mirror.download(Step(8), &dir.path().join("staged")).await.unwrap_err();
        assert!(error.to_string().contains("which leads out of the copy"), "{error}");
    }
}
