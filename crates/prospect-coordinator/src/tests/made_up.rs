//! What the workers of the tests say and write: numbers that follow from the rows alone.

use std::fs;
use std::path::Path;

use prospect_core::{
    KlSums, PartKlSums, PartSums, PhaseSeconds, Rank, ReferencePoint, ReferenceValue, Sequence,
    Shard, ShardKind, ShardPart, Step, StepReport, StepSums,
};
use serde_json::json;

use crate::run_dir::checkpoints::file_sha256;

/// The rows of a sequence as one number, the same in every run.
fn made_up(sequence: &Sequence) -> f64 {
    (sequence.prompt_row.0 as f64 + 0.37 * sequence.completion_row.0 as f64).sin()
}

/// A sequence's value under the reference.
pub(super) fn log_prob(sequence: &Sequence) -> f64 {
    -10.0 + made_up(sequence)
}

/// A checkpoint of one small file. Returns the manifest's digest.
pub(super) fn write_checkpoint(dir: &Path, step: Step) -> String {
    fs::create_dir_all(dir).unwrap();
    let state = dir.join("state");
    fs::write(&state, step.to_string()).unwrap();
    let entry = json!({
        "bytes": fs::metadata(&state).unwrap().len(),
        "sha256": file_sha256(&state).unwrap(),
    });
    let manifest = json!({"format": 1, "step": step.0, "world_size": 2, "files": {"state": entry}});
    fs::write(dir.join("MANIFEST.json"), manifest.to_string()).unwrap();
    file_sha256(&dir.join("MANIFEST.json")).unwrap()
}

/// Log-ratio sums of all parts.
pub(super) fn kl_sums(shard: &Shard) -> Vec<PartKlSums> {
    let sums = |part: &ShardPart| {
        let mut sums = KlSums::default();
        part.mismatched.iter().for_each(|sequence| sums.push(made_up(sequence)));
        PartKlSums { part: part.part, sums }
    };
    shard.parts.iter().map(sums).collect()
}

/// What a worker would report, with numbers that follow from the rows and the point.
pub(super) fn report(shard: &Shard, point: &ReferencePoint) -> StepReport {
    let sequences = shard.parts.iter().flat_map(|part| {
        part.targets.iter().map(|target| &target.sequence).chain(&part.mismatched)
    });
    let reference_values = sequences
        .filter(|sequence| sequence.reference_log_prob.is_none())
        .map(|sequence| ReferenceValue {
            prompt_row: sequence.prompt_row,
            completion_row: sequence.completion_row,
            log_prob: log_prob(sequence),
        })
        .collect();
    let parts =
        shard.parts.iter().map(|part| PartSums { part: part.part, sums: sums(part, point) });
    StepReport {
        rank: Rank(0),
        step: shard.step,
        kind: shard.kind,
        eval_index: shard.eval_index,
        parts: parts.collect(),
        grad_norm: if shard.kind == ShardKind::Train { 1.0 / shard.step.0 as f64 } else { 0.0 },
        reference_values,
        phase_seconds: PhaseSeconds { total: 0.5, ..PhaseSeconds::default() },
        peak_memory_bytes: 1 << 20,
    }
}

fn sums(part: &ShardPart, point: &ReferencePoint) -> StepSums {
    let mut sums = StepSums::default();
    for target in &part.targets {
        let reward = 0.1 * (made_up(&target.sequence) - point.z0);
        sums.loss += target.weight * (1.0 - reward * target.label.sign());
        if target.label.is_desirable() {
            sums.num_desirable += 1;
            sums.reward_desirable += reward;
        } else {
            sums.num_undesirable += 1;
            sums.reward_undesirable += reward;
        }
        sums.num_tokens += target.sequence.num_tokens() as u64;
    }
    sums.num_mismatched_tokens =
        part.mismatched.iter().map(|sequence| sequence.num_tokens() as u64).sum();
    sums.flops = 1e9;
    sums
}
