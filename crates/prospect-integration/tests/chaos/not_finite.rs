//! F17: what is not a number stops the run on all ranks alike, and is never saved.

use std::fs;

use prospect_core::ExitCode;
use safetensors::SafeTensors;

use crate::chaos::Chaos;

#[test]
fn f17_all_ranks_stop_and_nothing_is_saved() {
    let chaos = Chaos::new()
        .set("train.learning_rate=1e38")
        .set("train.lr_schedule=constant")
        .set("train.max_grad_norm=0")
        .set("checkpoint.every_steps=1")
        .set("checkpoint.keep=0");
    let ended = chaos.start().finish().expect_exit(ExitCode::NoProgress);
    let ended = ended.expect_workers(ExitCode::NoProgress);
    assert!(ended.coordinator.words.contains("not finite"), "{}", ended.coordinator.words);
    let entries = fs::read_dir(ended.run_dir.join("checkpoints")).into_iter().flatten();
    for path in entries.map(|entry| entry.unwrap().path().join("model/model.safetensors")) {
        let bytes = fs::read(&path).unwrap();
        for (name, tensor) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            let values = tensor.data().chunks_exact(4);
            let mut values = values.map(|value| f32::from_le_bytes(value.try_into().unwrap()));
            assert!(values.all(f32::is_finite), "{name} of {}", path.display());
        }
    }
    ended.expect_intact();
}
