//! Files that all ranks of a sharded world read at the same time.

use std::fs;
use std::path::Path;

use prospect_core::{Mode, Restore};
use tch::Device;

use super::sharded::mode_config;
use super::support::{fixture, group, ranks, shard, with_store};
use crate::{TrainError, Trainer};

#[test]
fn ranks_wait_for_each_other_to_read_models_and_hear_who_could_not() {
    let config = mode_config(Mode::FullySharded, "smollm2");
    let dir = tempfile::tempdir().unwrap();
    let copy = |name: &str| {
        let to = dir.path().join(name);
        fs::create_dir(&to).unwrap();
        for entry in fs::read_dir(fixture("llama2")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
        to
    };
    let references = [copy("0"), copy("1")];
    let is_blamed = |rank: usize, error: &TrainError, role: &str| match error {
        TrainError::Load { role: found, .. } => assert_eq!((*found, rank), (role, 1)),
        TrainError::Peer { rank: found, action } => {
            assert_eq!((*found, rank), (1, 0), "{action}");
            assert!(action.contains("load the"), "{action}");
        }
        other => panic!("{other}"),
    };
    with_store(|port| {
        ranks(2, |rank, exchange| {
            let mut config = config.clone();
            config.reference.path = Some(references[rank].clone());
            let mut trainer = Trainer::new(&config, Device::Cpu).unwrap();
            let enter = |trainer: &mut Trainer, prefix| {
                trainer.enter(group(port, prefix, (rank, 2)), &Restore::Initial, Path::new(""))
            };
            if rank == 1 {
                trainer.config.model.path = dir.path().join("missing");
            }
            is_blamed(rank, &enter(&mut trainer, "1").unwrap_err(), "policy");
            assert!(!trainer.is_initial);
            trainer.config.model.path = config.model.path.clone();
            enter(&mut trainer, "2").unwrap();
            if rank == 1 {
                fs::remove_dir_all(&references[1]).unwrap();
            }
            let error = trainer.step(&shard(1, 32, (rank, 2)), exchange).unwrap_err();
            is_blamed(rank, &error, "reference");
            trainer.close().unwrap();
        });
    });
}
