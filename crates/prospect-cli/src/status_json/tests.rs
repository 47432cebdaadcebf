//! The keys that programs rely on.

use prospect_core::{Phase, WorkerState};
use serde_json::Value;

use super::*;
use crate::display::example;

#[test]
fn what_a_run_has_survived_is_in_the_object() {
    let mut status = example::with_workers(example::status(Phase::Recovering, 7));
    (status.attempt, status.num_losses, status.num_failed_checkpoints) = (2, 3, 1);
    status.workers[0].is_straggler = true;
    status.workers[1].state = WorkerState::Away;
    let object: Value = serde_json::from_str(&line(&status)).unwrap();
    let expected = [
        ("/phase", json!("recovering")),
        ("/generation", json!(1)),
        ("/attempt", json!(2)),
        ("/num_losses", json!(3)),
        ("/num_failed_checkpoints", json!(1)),
        ("/effective_time_ratio", json!(0.934)),
        ("/workers/0/activity", json!("all-reduce")),
        ("/workers/0/slowdown", json!(1.04)),
        ("/workers/0/is_straggler", json!(true)),
        ("/workers/1/state", json!("away")),
    ];
    for (path, value) in expected {
        assert_eq!(object.pointer(path), Some(&value), "{path}");
    }
}
