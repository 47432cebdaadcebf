//! Checkpoints: a run goes on bit for bit, and damage is found and named.

use std::fs;
use std::path::Path;

use prospect_core::{Dtype, ExitCode, RunConfig, Step};
use safetensors::SafeTensors;

use super::support::{alone, config, train, world};
use crate::TrainError;

/// Trains 3 steps, saves, trains 3 more; then again from the checkpoint. Compares every sum and
/// the weights' digest.
fn check_resume(config: &RunConfig, world_size: usize) {
    let root = tempfile::tempdir().unwrap();
    let checkpoints = root.path().join("checkpoints");
    let whole = world(world_size, config, |rank, trainer, exchange| {
        train(trainer, exchange, 1..=3, (rank, world_size)).unwrap();
        let digest = trainer.save_checkpoint(&checkpoints, Step(3)).unwrap();
        let reports = train(trainer, exchange, 4..=6, (rank, world_size)).unwrap();
        let sums: Vec<_> = reports.iter().map(|report| (report.sums, report.grad_norm)).collect();
        (sums, trainer.digest().unwrap(), digest)
    });
    assert_eq!(whole[0].2, whole[world_size - 1].2, "all ranks name one checkpoint");
    let resumed = world(world_size, config, |rank, trainer, exchange| {
        let before = trainer.digest().unwrap();
        assert_eq!(trainer.load_checkpoint(&checkpoints.join("step-000003")).unwrap(), Step(3));
        assert_ne!(trainer.digest().unwrap(), before);
        let reports = train(trainer, exchange, 4..=6, (rank, world_size)).unwrap();
        let sums: Vec<_> = reports.iter().map(|report| (report.sums, report.grad_norm)).collect();
        (sums, trainer.digest().unwrap(), whole[rank].2.clone())
    });
    assert_eq!(whole, resumed);
}

#[test]
fn a_resumed_run_equals_the_uninterrupted_one_bit_for_bit() {
    check_resume(&config("smollm2", "llama2"), 1);
    check_resume(&config("llama2", "smollm2"), 2);
}

#[test]
fn a_resumed_run_in_bf16_goes_on_from_its_master_weights() {
    let mut config = config("smollm2", "llama2");
    config.model.dtype = Dtype::Bfloat16;
    check_resume(&config, 1);
}

/// Saves a checkpoint, lets `harm` at its directory, and returns how loading it is refused.
fn check_damage(harm: impl Fn(&Path)) -> TrainError {
    let root = tempfile::tempdir().unwrap();
    let config = config("smollm2", "llama2");
    alone(&config, |trainer, exchange| {
        train(trainer, exchange, 1..=1, (0, 1)).unwrap();
        trainer.save_checkpoint(root.path(), Step(1)).unwrap();
    });
    let dir = root.path().join("step-000001");
    harm(&dir);
    alone(&config, |trainer, _| trainer.load_checkpoint(&dir).unwrap_err())
}

#[test]
fn a_damaged_checkpoint_is_refused_by_the_name_of_the_file() {
    let cut = |name: &'static str| {
        move |dir: &Path| {
            let content = fs::read(dir.join(name)).unwrap();
            fs::write(dir.join(name), &content[..content.len() - 1]).unwrap();
        }
    };
    let flip = |name: &'static str| {
        move |dir: &Path| {
            let mut content = fs::read(dir.join(name)).unwrap();
            let last = content.len() - 1;
            content[last] ^= 1;
            fs::write(dir.join(name), content).unwrap();
        }
    };
    let remove = |name: &'static str| move |dir: &Path| fs::remove_file(dir.join(name)).unwrap();
    let optimizer = "optimizer-00000-of-00001.safetensors";
    let model = "model/model.safetensors";
    let cases: [(&str, &str, TrainError); 7] = [
        (optimizer, "bytes, but was written with", check_damage(cut(optimizer))),
        (model, "bytes, but was written with", check_damage(cut(model))),
        (model, "sha256", check_damage(flip(model))),
        ("state.json", "sha256", check_damage(flip("state.json"))),
        ("model/config.json", "is missing", check_damage(remove("model/config.json"))),
        ("MANIFEST.json", "is missing", check_damage(remove("MANIFEST.json"))),
        ("MANIFEST.json", "is not what it should be", check_damage(cut_half)),
    ];
    for (name, words, error) in cases {
        let text = error.to_string();
        assert!(text.contains(name) && text.contains(words), "{name}, {words}: {text}");
        assert_eq!(error.exit_code(), ExitCode::Corrupt);
    }
}

fn cut_half(dir: &Path) {
    let path = dir.join("MANIFEST.json");
    let content = fs::read(&path).unwrap();
    fs::write(&path, &content[..content.len() / 2]).unwrap();
}

#[test]
fn every_rank_learns_that_a_checkpoint_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let missing = root.path().join("step-000009");
    let errors = world(2, &config("smollm2", "llama2"), |_, trainer, _| {
        trainer.load_checkpoint(&missing).unwrap_err()
    });
    assert!(matches!(&errors[0], TrainError::Damaged { path, .. } if *path == missing));
    assert!(matches!(errors[1], TrainError::Peer { rank: 0, .. }), "{}", errors[1]);
}

#[test]
fn a_checkpoint_of_another_dtype_or_model_is_refused() {
    let root = tempfile::tempdir().unwrap();
    alone(&config("smollm2", "llama2"), |trainer, _| {
        trainer.save_checkpoint(root.path(), Step(1)).unwrap();
    });
    let dir = root.path().join("step-000001");
    let mut bf16 = config("smollm2", "llama2");
    bf16.model.dtype = Dtype::Bfloat16;
    for (config, key) in [(bf16, "dtype"), (config("llama2", "llama2"), "parameter")] {
        match alone(&config, |trainer, _| trainer.load_checkpoint(&dir)) {
            Err(TrainError::Incompatible { key: found, .. }) => assert_eq!(found, key),
            other => panic!("expected a different {key} to be refused, got {other:?}"),
        }
    }
}

#[test]
fn storage_that_fails_is_named_and_every_rank_learns_of_it() {
    let root = tempfile::tempdir().unwrap();
    let blocked = root.path().join("checkpoints");
    fs::write(&blocked, "a file where a directory should be").unwrap();
    let errors = world(2, &config("smollm2", "llama2"), |_, trainer, exchange| {
        let error = trainer.save_checkpoint(&blocked, Step(1)).unwrap_err();
        assert!(trainer.step(&super::support::shard(1, 32, (0, 1)), exchange).is_ok());
        error
    });
    assert_eq!(errors[0].exit_code(), ExitCode::Storage);
    assert!(errors[0].to_string().contains(&blocked.display().to_string()), "{}", errors[0]);
    assert!(matches!(errors[1], TrainError::Peer { rank: 0, .. }));
}

#[test]
fn a_checkpoint_of_the_same_step_is_replaced_and_the_final_model_loads() {
    let root = tempfile::tempdir().unwrap();
    let config = config("llama2", "smollm2");
    let (checkpoints, place) = (root.path().join("checkpoints"), root.path().join("final"));
    let digests = alone(&config, |trainer, exchange| {
        let first = trainer.save_checkpoint(&checkpoints, Step(1)).unwrap();
        train(trainer, exchange, 1..=1, (0, 1)).unwrap();
        let second = trainer.save_checkpoint(&checkpoints, Step(1)).unwrap();
        trainer.save_final(&place).unwrap();
        trainer.save_final(&place).unwrap();
        assert_ne!(first, second);
        trainer.digest().unwrap()
    });
    let mut names: Vec<_> =
        fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["checkpoints", "final"]);
    assert_eq!(fs::read_dir(&checkpoints).unwrap().count(), 1);
    let resumed = alone(&config, |trainer, _| {
        trainer.load_checkpoint(&checkpoints.join("step-000001")).unwrap();
        trainer.digest().unwrap()
    });
    assert_eq!(resumed, digests);
    // The final model is a model directory with the same weights as the checkpoint's.
    let weights = |dir: &Path| fs::read(dir.join("model.safetensors")).unwrap();
    assert_eq!(weights(&place), weights(&checkpoints.join("step-000001/model")));
    let mut again = config.clone();
    again.model.path = place;
    alone(&again, |trainer, _| assert_eq!(trainer.policy().kind(), tch::Kind::Float));
}

#[test]
fn the_optimizer_file_is_what_the_safetensors_crate_reads() {
    let root = tempfile::tempdir().unwrap();
    let mut config = config("smollm2", "llama2");
    config.model.dtype = Dtype::Bfloat16;
    alone(&config, |trainer, _| {
        trainer.save_checkpoint(root.path(), Step(12)).unwrap();
    });
    let dir = root.path().join("step-000012");
    let content = fs::read(dir.join("optimizer-00000-of-00001.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&content).unwrap();
    for prefix in ["exp_avg", "exp_avg_sq", "master"] {
        let tensor = file.tensor(&format!("{prefix}.model.embed_tokens.weight")).unwrap();
        assert_eq!(tensor.shape(), [128, 36]);
    }
    let manifest = fs::read_to_string(dir.join("MANIFEST.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(
        (&manifest["format"], &manifest["step"], &manifest["world_size"]),
        (&1.into(), &12.into(), &1.into())
    );
    let files = manifest["files"].as_object().unwrap();
    assert_eq!(files["state.json"]["bytes"], fs::read(dir.join("state.json")).unwrap().len());
    assert_eq!(files["model/config.json"]["sha256"].as_str().unwrap().len(), 64);
}
