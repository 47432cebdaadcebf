//! Checkpoints that several ranks write: they go on bit for bit in a world of the same size, and with
//! the same curve in any other and in any mode.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use prospect_core::{Dtype, Mode, Restore, RunConfig, Step, StepReport};
use safetensors::SafeTensors;

use super::checkpoints::{MANIFEST, saved};
use super::sharded::{SHARDED, mode_config};
use super::support::{
    ThreadExchange, alone, device, group, loss, ranks, shard, step, train, with_store, world,
};
use crate::{TrainError, Trainer};

const NAME: &str = "step-000003";
const ALL: [Mode; 3] = [Mode::Replicated, Mode::ShardedOptimizer, Mode::FullySharded];

/// Losses of the steps 4 to 6, and the digest after them.
type End = (Vec<f64>, String);

fn go_on(
    (rank, world_size): (usize, usize),
    trainer: &mut Trainer,
    exchange: &mut ThreadExchange,
) -> (Vec<StepReport>, String) {
    let reports = train(trainer, exchange, 4..=6, (rank, world_size)).unwrap();
    (reports, trainer.digest().unwrap())
}

fn end(ranks: Vec<(Vec<StepReport>, String)>) -> End {
    let of_step = |idx: usize| ranks.iter().map(|(reports, _)| &reports[idx]).collect::<Vec<_>>();
    assert!(ranks.iter().all(|(_, digest)| *digest == ranks[0].1));
    ((0..3).map(|idx| loss(&of_step(idx))).collect(), ranks[0].1.clone())
}

/// Trains 3 steps, saves in `run_dir`, and trains 3 more.
fn save(world_size: usize, config: &RunConfig, run_dir: &Path) -> End {
    end(world(world_size, config, |rank, trainer, exchange| {
        train(trainer, exchange, 1..=3, (rank, world_size)).unwrap();
        if rank == 0 || trainer.is_sharded() {
            // Only rank 0's name counts.
            let name = if rank == 0 { NAME } else { "elsewhere" };
            let snapshot = trainer.snapshot(&run_dir.join(name)).unwrap();
            assert_eq!((snapshot.step(), snapshot.is_leader()), (Step(3), rank == 0));
            let ended = std::thread::scope(|scope| {
                let writing = scope.spawn(|| snapshot.write());
                let ended = go_on((rank, world_size), trainer, exchange);
                let written = writing.join().unwrap().unwrap();
                assert_eq!(written.is_some(), rank == 0);
                ended
            });
            return ended;
        }
        go_on((rank, world_size), trainer, exchange)
    }))
}

/// Trains the same 3 steps more from the checkpoint.
fn resume(world_size: usize, config: &RunConfig, run_dir: &Path) -> End {
    let restore = Restore::Checkpoint { path: NAME.to_owned() };
    end(with_store(|port| {
        ranks(world_size, |rank, exchange| {
            let mut trainer = Trainer::new(config, device()).unwrap();
            let group = group(port, "t", (rank, world_size));
            assert_eq!(trainer.enter(group, &restore, run_dir).unwrap(), Step(3));
            go_on((rank, world_size), &mut trainer, exchange)
        })
    }))
}

/// A checkpoint of `world_size` ranks in one mode goes on in all modes.
fn check_moves(config: &RunConfig, world_size: usize, tolerance: f64) {
    let dir = tempfile::tempdir().unwrap();
    let whole = save(world_size, config, dir.path());
    assert_eq!(resume(world_size, config, dir.path()), whole, "the same world, bit for bit");
    for (mode, world_size) in ALL.into_iter().zip([2, 3, 1]).chain([(config.train.mode, 1)]) {
        let mut config = config.clone();
        config.train.mode = mode;
        let (found, _) = resume(world_size, &config, dir.path());
        for (found, expected) in found.iter().zip(&whole.0) {
            let difference = (found - expected).abs();
            assert!(difference <= tolerance * expected.abs(), "{mode:?} at {world_size}");
        }
    }
}

#[test]
fn a_checkpoint_of_sharded_optimizers_goes_on_anywhere() {
    check_moves(&mode_config(Mode::ShardedOptimizer, "smollm2"), 4, 1e-5);
}

#[test]
fn a_checkpoint_of_full_shards_goes_on_anywhere() {
    check_moves(&mode_config(Mode::FullySharded, "qwen2"), 2, 1e-5);
}

#[test]
fn a_checkpoint_of_one_file_goes_on_in_shards() {
    check_moves(&mode_config(Mode::Replicated, "smollm2"), 2, 1e-5);
}

#[test]
fn master_weights_move_with_the_moments() {
    let mut config = mode_config(Mode::FullySharded, "smollm2");
    config.model.dtype = Dtype::Bfloat16;
    check_moves(&config, 3, 0.02);
}

#[test]
fn optimizers_in_main_memory_are_saved_and_restored() {
    let dir = tempfile::tempdir().unwrap();
    for mode in ALL {
        let mut config = mode_config(mode, "smollm2");
        config.train.offload_optimizer = true;
        let whole = save(2, &config, dir.path());
        assert_eq!(resume(2, &config, dir.path()), whole, "{mode:?}");
    }
}

/// Names in a directory, sorted.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Bytes of all tensors in the weights files of a model's directory. No tensor is in two of them.
fn weights(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut weights = BTreeMap::new();
    for name in names(dir).iter().filter(|name| name.ends_with(".safetensors")) {
        let content = fs::read(dir.join(name)).unwrap();
        for (tensor, view) in SafeTensors::deserialize(&content).unwrap().tensors() {
            assert!(weights.insert(tensor, view.data().to_vec()).is_none(), "{name}");
        }
    }
    assert!(!weights.is_empty());
    weights
}

#[test]
fn fp32_weights_of_bf16_runs_move_into_and_out_of_main_memory() {
    let dir = tempfile::tempdir().unwrap();
    for mode in ALL {
        let mut here = mode_config(mode, "smollm2");
        here.model.dtype = Dtype::Bfloat16;
        let mut there = here.clone();
        there.train.offload_optimizer = true;
        let whole = save(2, &here, dir.path());
        assert_eq!(resume(2, &there, dir.path()), whole, "{mode:?}");
        assert_eq!(save(2, &there, dir.path()), whole, "{mode:?}");
        assert_eq!(resume(2, &here, dir.path()), whole, "{mode:?}");
    }
}

#[test]
fn the_files_of_a_world_hold_what_one_file_holds() {
    let dir = tempfile::tempdir().unwrap();
    let [alone_dir, sharded_dir] = ["alone", "sharded"].map(|name| dir.path().join(name));
    let digest = saved(&mode_config(Mode::Replicated, "smollm2"), 0, &alone_dir);
    let config = mode_config(Mode::FullySharded, "smollm2");
    world(3, &config, |_, trainer, _| {
        trainer.snapshot(&sharded_dir).unwrap().write().unwrap();
        assert_eq!(trainer.digest().unwrap(), digest);
    });
    let model = sharded_dir.join("model");
    assert_eq!(weights(&alone_dir.join("model")), weights(&model));
    let files = [0, 1, 2].map(|rank| format!("optimizer-0000{rank}-of-00003.safetensors"));
    assert_eq!(
        names(&sharded_dir),
        [MANIFEST, "model", &files[0], &files[1], &files[2], "state.json"]
    );
    let parts = [1, 2, 3].map(|idx| format!("model-0000{idx}-of-00003.safetensors"));
    let index = "model.safetensors.index.json";
    assert_eq!(
        names(&model),
        ["config.json", "generation_config.json", &parts[0], &parts[1], &parts[2], index]
    );
    let manifest = fs::read_to_string(sharded_dir.join(MANIFEST)).unwrap();
    let parts = parts.iter().map(|name| format!("model/{name}"));
    let mut expected = files.into_iter().chain(parts).chain([format!("model/{index}")]);
    assert!(expected.all(|name| manifest.contains(&name)) && !manifest.contains(".part"));
    // Of its four segments, the first and the last are the first rank's.
    let first = fs::read(model.join("model-00001-of-00003.safetensors")).unwrap();
    let first = SafeTensors::deserialize(&first).unwrap();
    let mut held = first.names();
    held.sort_unstable();
    assert_eq!(held, ["model.embed_tokens.weight", "model.norm.weight"]);
}

#[test]
fn more_ranks_than_segments_save_what_one_saves() {
    for (policy, world_size) in [("smollm2", 2), ("llama2", 3), ("smollm2", 6)] {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        saved(&mode_config(Mode::Replicated, policy), 0, &path("alone"));
        for mode in SHARDED {
            let [staged, last] = ["step", "final"].map(|name| path(&format!("{name}-{mode:?}")));
            world(world_size, &mode_config(mode, policy), |_, trainer, _| {
                trainer.snapshot(&staged).unwrap().write().unwrap();
                trainer.save_final(&last).unwrap();
            });
            for model in [staged.join("model"), last] {
                assert_eq!(weights(&model), weights(&path("alone/model")), "{mode:?}");
                let mut config = mode_config(Mode::Replicated, policy);
                config.model.path = model;
                alone(&config, |trainer, _| assert!(trainer.policy().num_parameters() > 0));
            }
        }
    }
}

#[test]
fn the_trained_model_is_written_by_all_of_a_world() {
    let dir = tempfile::tempdir().unwrap();
    for mode in ALL {
        world(2, &mode_config(mode, "smollm2"), |rank, trainer, exchange| {
            step(trainer, &shard(1, 32, (rank, 2)), exchange).unwrap();
            if rank == 0 || trainer.is_sharded() {
                trainer.save_final(&dir.path().join(format!("{mode:?}-{rank}"))).unwrap();
            }
            // The world goes on.
            step(trainer, &shard(2, 32, (rank, 2)), exchange).unwrap();
        });
    }
    let found = ALL.map(|mode| weights(&dir.path().join(format!("{mode:?}-0"))));
    assert!(found[0].keys().eq(found[1].keys()), "the same tensors");
    assert_eq!(found[1], found[2]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "rank 0's name counts");
}

#[test]
fn a_rank_that_cannot_write_the_trained_model_fails_all_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for (mode, failing) in SHARDED.into_iter().zip([1, 0]) {
        world(3, &mode_config(mode, "smollm2"), |rank, trainer, _| {
            // The segment that the failing rank writes, or what it gathers of it.
            let segment = trainer.parameters.weights.segment(failing);
            let spoilt = match mode {
                Mode::FullySharded => (rank == 0).then_some(&segment.own),
                _ => (rank == failing).then_some(&segment.whole),
            };
            if let Some(spoilt) = spoilt {
                let _no_grad = tch::no_grad_guard();
                let _ = spoilt.shallow_clone().f_fill_(f64::NAN).unwrap();
            }
            let error = trainer.save_final(&dir.path().join("final")).unwrap_err();
            match error {
                TrainError::NotFiniteWeights { .. } => assert_eq!(rank, failing, "{error}"),
                TrainError::Peer { rank, .. } => assert_eq!(rank, failing, "{error}"),
                other => panic!("{other}"),
            }
            assert!(trainer.any(rank == 0).unwrap(), "the world is whole");
        });
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn every_rank_sees_that_one_of_many_files_is_damaged_or_gone() {
    let dir = tempfile::tempdir().unwrap();
    let config = mode_config(Mode::FullySharded, "smollm2");
    save(3, &config, dir.path());
    let restore = Restore::Checkpoint { path: NAME.to_owned() };
    let refusals = || {
        with_store(|port| {
            ranks(2, |rank, _| {
                let mut trainer = Trainer::new(&config, device()).unwrap();
                trainer.enter(group(port, "t", (rank, 2)), &restore, dir.path()).unwrap_err()
            })
        })
    };
    let path = dir.path().join(NAME).join("optimizer-00001-of-00003.safetensors");
    let intact = fs::read(&path).unwrap();
    let mut damaged = intact.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(&path, &damaged).unwrap();
    let is_blamed = |error: &TrainError| match error {
        TrainError::Damaged { path: found, .. } => *found == path,
        TrainError::Peer { .. } => false,
        other => panic!("{other}"),
    };
    assert_eq!(refusals().iter().filter(|error| is_blamed(error)).count(), 1, "one looks at it");
    fs::remove_file(&path).unwrap();
    assert!(refusals().iter().any(is_blamed));
    fs::write(&path, &intact).unwrap();
    resume(2, &config, dir.path());
}

/// What the ranks of three say where one cannot write its part of a checkpoint.
fn check_failing_part(mode: Mode, failing: usize) -> Vec<Result<(), TrainError>> {
    let dir = tempfile::tempdir().unwrap();
    let said = world(3, &mode_config(mode, "smollm2"), |rank, trainer, exchange| {
        train(trainer, exchange, 1..=1, (rank, 3)).unwrap();
        if rank == failing {
            let _ = trainer.parameters.segments[1].exp_avg.f_fill_(f64::NAN).unwrap();
        }
        trainer.snapshot(&dir.path().join(NAME)).unwrap().write().map(drop)
    });
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
    said
}

#[test]
fn a_part_that_is_not_finite_costs_the_checkpoint_and_rank_0_says_why() {
    for mode in SHARDED {
        let said = check_failing_part(mode, 2);
        let error = said[0].as_ref().unwrap_err();
        assert!(matches!(error, TrainError::Part { rank: 2, .. }), "{error}");
        assert!(error.to_string().contains("not finite after step 1"), "{error}");
        assert!(matches!(said[2], Err(TrainError::NotFiniteWeights { .. })), "{said:?}");
        assert!(said[1].is_ok(), "its part was written: {said:?}");
        // Rank 0 waits for the others before it removes what they write.
        let said = check_failing_part(mode, 0);
        assert!(matches!(said[0], Err(TrainError::NotFiniteWeights { .. })), "{said:?}");
        assert!(said[1..].iter().all(Result::is_ok), "{said:?}");
    }
}

#[test]
fn a_rank_that_writes_nothing_costs_the_checkpoint_only() {
    let dir = tempfile::tempdir().unwrap();
    for mode in SHARDED {
        let mut config = mode_config(mode, "smollm2");
        config.coordinator.collective_timeout_seconds = 0.5;
        world(2, &config, |rank, trainer, exchange| {
            let snapshot = trainer.snapshot(&dir.path().join(NAME)).unwrap();
            if rank == 0 {
                let error = snapshot.write().unwrap_err();
                let said = error.to_string();
                assert!(matches!(error, TrainError::Part { rank: 1, .. }), "{said}");
                assert!(said.contains("nothing was written for 0.5 s"), "{said}");
            } else {
                drop(snapshot);
            }
            step(trainer, &shard(1, 32, (rank, 2)), exchange).unwrap();
        });
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn a_directory_that_cannot_be_made_costs_the_checkpoint_of_all_ranks() {
    let dir = tempfile::tempdir().unwrap();
    for mode in SHARDED {
        world(2, &mode_config(mode, "smollm2"), |rank, trainer, exchange| {
            let path = dir.path().join("missing").join(NAME);
            let error = trainer.snapshot(&path).unwrap().write().unwrap_err();
            assert!(matches!(error, TrainError::Storage { .. }), "{error}");
            step(trainer, &shard(1, 32, (rank, 2)), exchange).unwrap();
        });
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_rank_alone_saves_in_every_mode() {
    let dir = tempfile::tempdir().unwrap();
    for mode in ALL {
        let config = mode_config(mode, "smollm2");
        let whole = save(1, &config, dir.path());
        assert_eq!(resume(1, &config, dir.path()), whole, "{mode:?}");
        assert!(alone(&config, |trainer, _| trainer.any(true).unwrap()));
        assert!(!alone(&config, |trainer, _| trainer.any(false).unwrap()));
    }
}
