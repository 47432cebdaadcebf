//! Workers and a tiny model through whole runs, against a made-up coordinator.

mod ends;
mod reconnect;
mod regroup;
mod saving;
mod sharded;
mod support;

use std::future::pending;

use prospect_core::ExitCode;

use support::{finish, run_dir, shard, solo, words};

#[test]
fn a_run_from_the_first_step_to_the_trained_model() {
    let run_dir = run_dir();
    let orders = vec![shard(1, false), shard(2, true), shard(3, false), finish()];
    let (result, heard) = solo(&run_dir, orders, |_| None).meet(pending());
    assert_eq!(result.unwrap(), ExitCode::Complete);
    let said = words(&heard);
    // The checkpoint is written while the next step is computed.
    let (written, said): (Vec<String>, Vec<String>) =
        said.into_iter().partition(|word| word.contains("step-000002"));
    let incarnation = written[0].strip_prefix("written checkpoints/.staged-step-000002-").unwrap();
    assert_eq!((written.len(), incarnation.len()), (1, 8));
    let expected = [
        "hello",
        "loaded",
        "store",
        "ready 0",
        "sums 1",
        "report 1",
        "sums 2",
        "report 2",
        "sums 3",
        "report 3",
        &format!("written .staged-final-{incarnation}"),
    ];
    assert_eq!(said, expected);
    let checkpoints = run_dir.path().join("checkpoints");
    let staged = checkpoints.join(format!(".staged-step-000002-{incarnation}"));
    assert!(staged.join("MANIFEST.json").is_file());
    let staged = run_dir.path().join(format!(".staged-final-{incarnation}"));
    assert!(staged.join("model.safetensors").is_file());
}
