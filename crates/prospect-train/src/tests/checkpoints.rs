//! Checkpoints: a run goes on bit for bit, a snapshot is of its moment, and what cannot be restored
//! whole is refused.

use std::fs;
use std::path::Path;

use prospect_core::{Dtype, ExitCode, Restore, RunConfig, Step};
use safetensors::SafeTensors;
use sha2::{Digest as _, Sha256};

use super::support::{
    ThreadExchange, alone, config, device, group, ranks, shard, step, total, train, with_store,
    world,
};
use crate::{CheckpointManifestDigest, Snapshot, TrainError, Trainer};

pub(super) const MODEL: &str = "model/model.safetensors";
pub(super) const OPTIMIZER: &str = "optimizer-00000-of-00001.safetensors";
pub(super) const STATE: &str = "state.json";
pub(super) const MANIFEST: &str = "MANIFEST.json";

/// Trains one rank to `last` and writes what it then has to `dir`. Returns the trainer's digest.
pub(super) fn saved(config: &RunConfig, last: u64, dir: &Path) -> String {
    alone(config, |trainer, exchange| {
        train(trainer, exchange, 1..=last, (0, 1)).unwrap();
        trainer.snapshot(dir).unwrap().write().unwrap();
        trainer.digest().unwrap()
    })
}

/// One thread per rank, each with a trainer that goes on from the checkpoint `name` in `run_dir`.
fn resumed<T: Send>(
    world_size: usize,
    config: &RunConfig,
    (run_dir, name): (&Path, &str),
    body: impl Fn(usize, &mut Trainer, &mut ThreadExchange) -> T + Sync,
) -> Vec<Result<T, TrainError>> {
    let restore = Restore::Checkpoint { path: name.to_owned() };
    with_store(|port| {
        ranks(world_size, |rank, exchange| {
            let mut trainer = Trainer::new(config, device()).unwrap();
            let group = group(port, "t", (rank, world_size));
            trainer.enter(group, &restore, run_dir)?;
            Ok(body(rank, &mut trainer, exchange))
        })
    })
}

/// Trains 3 steps, saves, trains 3 more; then again from the checkpoint. Compares every sum and
/// the weights' digest.
fn check_resume(config: &RunConfig, world_size: usize) {
    let root = tempfile::tempdir().unwrap();
    let last = |trainer: &mut Trainer, exchange: &mut ThreadExchange, rank| {
        let reports = train(trainer, exchange, 4..=6, (rank, world_size)).unwrap();
        let norms: Vec<_> = reports.iter().map(|report| report.grad_norm).collect();
        (total(&reports), norms, trainer.digest().unwrap())
    };
    let whole = world(world_size, config, |rank, trainer, exchange| {
        train(trainer, exchange, 1..=3, (rank, world_size)).unwrap();
        let snapshot = trainer.snapshot(&root.path().join("step-000003")).unwrap();
        assert_eq!(snapshot.step(), Step(3));
        if rank == 0 {
            snapshot.write().unwrap();
        }
        last(trainer, exchange, rank)
    });
    let found =
        resumed(world_size, config, (root.path(), "step-000003"), |rank, trainer, exchange| {
            assert_eq!((trainer.done(), trainer.pending()), (Step(3), None));
            last(trainer, exchange, rank)
        });
    let found: Vec<_> = found.into_iter().map(Result::unwrap).collect();
    assert_eq!(found, whole);
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

/// Takes a snapshot after 2 steps, writes it at once, and again from another thread while and after
/// the trainer goes on.
fn check_snapshot(config: &RunConfig) {
    let root = tempfile::tempdir().unwrap();
    let take = |trainer: &Trainer, name: &str| trainer.snapshot(&root.path().join(name)).unwrap();
    let write = |snapshot: Snapshot| snapshot.write().unwrap().unwrap();
    let (then, digests) = alone(config, |trainer, exchange| {
        train(trainer, exchange, 1..=2, (0, 1)).unwrap();
        let then = trainer.digest().unwrap();
        let at_once = write(take(trainer, "at-once"));
        let [during, after] = ["during", "after"].map(|name| take(trainer, name));
        // A gradient that is pending is no part of it.
        trainer.step(&shard(3, 32, (0, 1)), exchange).unwrap();
        let pending = write(take(trainer, "pending"));
        trainer.apply(Step(3)).unwrap();
        let digests: [CheckpointManifestDigest; 4] = std::thread::scope(|scope| {
            let during = scope.spawn(|| write(during));
            train(trainer, exchange, 4..=6, (0, 1)).unwrap();
            [at_once, pending, during.join().unwrap(), write(after)]
        });
        assert_ne!(trainer.digest().unwrap(), then);
        (then, digests)
    });
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    let found =
        resumed(1, config, (root.path(), "after"), |_, trainer, _| trainer.digest().unwrap());
    assert_eq!(found.into_iter().next().unwrap().unwrap(), then);
}

#[test]
fn a_snapshot_is_of_its_moment_whatever_the_trainer_does_later() {
    check_snapshot(&config("smollm2", "llama2"));
    let mut config = config("llama2", "smollm2");
    config.model.dtype = Dtype::Bfloat16;
    check_snapshot(&config);
}

#[test]
fn writing_a_snapshot_and_hashing_it_is_progress() {
    let root = tempfile::tempdir().unwrap();
    let trainer = Trainer::new(&config("smollm2", "llama2"), device()).unwrap();
    let snapshot = trainer.snapshot(&root.path().join("step")).unwrap();
    let progress = trainer.progress();
    let before = progress.count();
    snapshot.write().unwrap();
    let found = progress.count() - before;
    let content = fs::read(root.path().join("step").join(OPTIMIZER)).unwrap();
    let num_moments = SafeTensors::deserialize(&content).unwrap().len() as u64;
    // All tensors are looked at, the moments written one by one, and four files made durable and
    // hashed.
    let least = num_moments * 3 / 2 + num_moments + 4 + 4;
    assert!(found >= least, "{found} of {least}");
}

#[test]
fn every_rank_learns_that_a_checkpoint_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let found =
        resumed(2, &config("smollm2", "llama2"), (root.path(), "step-000009"), |_, _, _| ());
    let errors: Vec<TrainError> = found.into_iter().map(Result::unwrap_err).collect();
    let missing = root.path().join("step-000009");
    assert!(matches!(&errors[0], TrainError::Damaged { path, .. } if *path == missing));
    assert!(matches!(errors[1], TrainError::Peer { rank: 0, .. }), "{}", errors[1]);
}

#[test]
fn a_checkpoint_of_another_dtype_or_model_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("step-000001");
    saved(&config("smollm2", "llama2"), 1, &dir);
    let mut bf16 = config("smollm2", "llama2");
    bf16.model.dtype = Dtype::Bfloat16;
    for (config, key) in [(bf16, "dtype"), (config("llama2", "llama2"), "parameter")] {
        match alone(&config, |trainer, _| trainer.load_checkpoint(&dir)) {
            Err(TrainError::Incompatible { key: found, .. }) => assert_eq!(found, key),
            other => panic!("expected a different {key} to be refused, got {other:?}"),
        }
    }
}

/// Replaces a file of a checkpoint and makes its manifest true again.
fn forge(dir: &Path, name: &str, content: &[u8]) {
    fs::write(dir.join(name), content).unwrap();
    let path = dir.join(MANIFEST);
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let sha256: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    manifest["files"][name] = serde_json::json!({"bytes": content.len(), "sha256": sha256});
    fs::write(path, manifest.to_string()).unwrap();
}

/// The safetensors file with its header changed as text.
fn with_header(content: &[u8], change: impl Fn(String) -> String) -> Vec<u8> {
    let length = u64::from_le_bytes(content[..8].try_into().unwrap()) as usize;
    let header = change(String::from_utf8(content[8..8 + length].to_vec()).unwrap());
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &content[8 + length..]].concat()
}

#[test]
fn what_the_files_hold_has_to_be_all_that_a_trainer_needs_and_no_more() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("step-000002");
    let config = config("smollm2", "llama2");
    let digest = saved(&config, 2, &dir);
    let state = fs::read_to_string(dir.join(STATE)).unwrap();
    let optimizer = fs::read(dir.join(OPTIMIZER)).unwrap();
    let text = |from: &str, to: &str| {
        let changed = state.replace(from, to);
        assert_ne!(changed, state, "{from} is there");
        (STATE, changed.into_bytes())
    };
    let header = |from: &'static str, to: &'static str| {
        let changed = with_header(&optimizer, |header| header.replace(from, to));
        assert_ne!(changed, optimizer, "{from} is there");
        (OPTIMIZER, changed)
    };
    let norm = "exp_avg.model.norm.weight";
    let cases = [
        (text("\"format\": 1", "\"format\": 2"), "format 2"),
        (text("\"step\": 2", "\"step\": 3"), "is of step 3"),
        (text("\"num_updates\": 2", "\"num_updates\": 1"), "number of updates 1"),
        (text("\"num_updates\": 2", "\"num_updates\": -2"), "is not what it should be"),
        (text("  \"num_updates\": 2,\n", ""), "missing field `num_updates`"),
        (text("\"threads\"", "\"scaler\": 8, \"threads\""), "unknown field `scaler`"),
        (text("float32", "float16"), "dtype float16"),
        (text("\"world_size\": 1", "\"world_size\": 2"), "on 2 ranks"),
        (header(norm, "exp_avg.model.norm.w"), "holds no tensor \"exp_avg.model.norm.weight\""),
        (
            header(
                "{\"exp_avg.",
                "{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},\"exp_avg.",
            ),
            "has tensor a",
        ),
        (header("F32", "F16"), "of F16"),
        (header("[128,36]", "[36,128]"), "[36, 128]"),
        (header("[0,", "[9223372036854775800,"), "bytes"),
        (header("\"shape\"", "\"shapes\""), "has a bad header"),
    ];
    let intact: Vec<(&str, Vec<u8>)> =
        [STATE, OPTIMIZER].map(|name| (name, fs::read(dir.join(name)).unwrap())).into();
    alone(&config, |trainer, _| {
        for ((name, content), expected) in &cases {
            forge(&dir, name, content);
            let error = trainer.load_checkpoint(&dir).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(name) && text.contains(expected), "{expected}: {text}");
            intact.iter().for_each(|(name, content)| forge(&dir, name, content));
        }
        assert_eq!(trainer.load_checkpoint(&dir).unwrap(), Step(2));
        assert_eq!(trainer.digest().unwrap(), digest);
    });
}

#[test]
fn storage_that_fails_is_named_and_training_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let blocked = root.path().join("checkpoints");
    fs::write(&blocked, "a file where a directory should be").unwrap();
    alone(&config("smollm2", "llama2"), |trainer, exchange| {
        for path in [blocked.join(".staged-step-000000-1f0c9a3e"), root.path().join("no/.staged")] {
            let saved = trainer.snapshot(&path).unwrap().write().map(|_| ());
            for error in [saved.unwrap_err(), trainer.save_final(&path).unwrap_err()] {
                assert_eq!(error.exit_code(), ExitCode::Storage);
                assert!(error.to_string().contains(&path.display().to_string()), "{error}");
            }
        }
        step(trainer, &shard(1, 32, (0, 1)), exchange).unwrap();
    });
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
}

#[test]
fn a_staged_checkpoint_is_replaced_and_the_final_model_loads() {
    let root = tempfile::tempdir().unwrap();
    let config = config("llama2", "smollm2");
    let (staged, place) = (root.path().join(".staged-step"), root.path().join(".staged-final"));
    let digest = alone(&config, |trainer, exchange| {
        let first = trainer.snapshot(&staged).unwrap().write().unwrap();
        train(trainer, exchange, 1..=1, (0, 1)).unwrap();
        let second = trainer.snapshot(&staged).unwrap().write().unwrap();
        trainer.save_final(&place).unwrap();
        trainer.save_final(&place).unwrap();
        assert_ne!(first, second);
        trainer.digest().unwrap()
    });
    let mut names: Vec<_> =
        fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [".staged-final", ".staged-step"]);
    let found = alone(&config, |trainer, _| {
        trainer.load_checkpoint(&staged).unwrap();
        trainer.digest().unwrap()
    });
    assert_eq!(found, digest);
    // The final model is a model directory with the same weights as the checkpoint's.
    let weights = |dir: &Path| fs::read(dir.join("model.safetensors")).unwrap();
    assert_eq!(weights(&place), weights(&staged.join("model")));
    let mut again = config.clone();
    again.model.path = place;
    alone(&again, |trainer, _| assert_eq!(trainer.policy().kind(), tch::Kind::Float));
}

#[test]
fn the_files_are_what_others_read() {
    let root = tempfile::tempdir().unwrap();
    let mut config = config("smollm2", "llama2");
    config.model.dtype = Dtype::Bfloat16;
    let dir = root.path().join("step-000000");
    // A trainer needs no world for it.
    let trainer = Trainer::new(&config, device()).unwrap();
    let digest = trainer.snapshot(&dir).unwrap().write().unwrap().unwrap();
    let content = fs::read(dir.join(OPTIMIZER)).unwrap();
    let file = SafeTensors::deserialize(&content).unwrap();
    for prefix in ["exp_avg", "exp_avg_sq", "master"] {
        let tensor = file.tensor(&format!("{prefix}.model.embed_tokens.weight")).unwrap();
        assert_eq!(tensor.shape(), [128, 36]);
    }
    let text = fs::read(dir.join(MANIFEST)).unwrap();
    let found: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digest, CheckpointManifestDigest(found));
    let manifest: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!((&manifest["format"], &manifest["step"]), (&1.into(), &0.into()));
    let files = manifest["files"].as_object().unwrap();
    assert_eq!(files[STATE]["bytes"], fs::read(dir.join(STATE)).unwrap().len());
    for name in [MODEL, "model/config.json", OPTIMIZER] {
        assert_eq!(files[name]["sha256"].as_str().unwrap().len(), 64);
    }
}

#[test]
fn weights_that_are_not_finite_are_not_saved() {
    let root = tempfile::tempdir().unwrap();
    let mut config = config("smollm2", "smollm2");
    config.train.max_grad_norm = 0.0;
    let check = |result: Result<(), TrainError>| {
        let error = result.unwrap_err();
        assert!(
            matches!(&error, TrainError::NotFiniteWeights { step: Step(1), name } if name.starts_with("model.")),
            "{error}"
        );
        assert_eq!(error.exit_code(), ExitCode::NoProgress);
    };
    alone(&config, |trainer, exchange| {
        let mut shard = shard(1, 64, (0, 1));
        shard.learning_rate = 1e39;
        trainer.step(&shard, exchange).unwrap();
        trainer.apply(Step(1)).unwrap();
        check(trainer.snapshot(&root.path().join("step")).unwrap().write().map(drop));
        check(trainer.save_final(&root.path().join("final")));
    });
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}
