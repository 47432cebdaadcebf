//! Run directories that no coordinator has written: 10 rows, batches of 4, so 3 steps an epoch of
//! which the last is smaller.

use std::fs;
use std::path::Path;

use serde::de::IgnoredAny;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

pub(super) const ROWS: u64 = 10;
const BATCH: u64 = 4;
const STEPS_PER_EPOCH: u64 = 3;

/// A history that is being written down.
#[derive(Clone)]
pub(super) struct History {
    lines: Vec<Value>,
    metrics: Vec<Value>,
    settings: Value,
    /// Steps whose checkpoints lie on the disk.
    checkpoints: Vec<u64>,
    has_final: bool,
    generation: u64,
    attempt: u64,
    world_size: u32,
    step: u64,
    /// What losses of the current world are multiplied with.
    pub(super) skew: f64,
}

impl History {
    /// A run that has opened its data.
    pub(super) fn new() -> Self {
        let mut history = Self {
            lines: Vec::new(),
            metrics: Vec::new(),
            settings: json!({
                "format": 1,
                "coordinator.workers": 3,
                "train.global_batch_size": BATCH,
                "train.reduction": "fast",
            }),
            checkpoints: Vec::new(),
            has_final: false,
            generation: 0,
            attempt: 1,
            world_size: 0,
            step: 0,
            skew: 1.0,
        };
        history.start();
        history
    }

    /// A run with other settings.
    pub(super) fn set(mut self, key: &str, value: Value) -> Self {
        self.settings[key] = value;
        self
    }

    /// What a coordinator notes when it starts.
    pub(super) fn start(&mut self) {
        self.event("run_started", "begins");
        self.event("data_opened", &format!("{ROWS} rows, 5 desirable and 5 undesirable"));
    }

    /// A world that forms, with weights that its workers have or the model directory gives.
    pub(super) fn world(&mut self, world_size: u32) {
        let from = if self.step == 0 { "initial" } else { "kept" };
        self.world_from(world_size, json!({ "from": from }));
    }

    /// A world that forms with the weights of the checkpoint of the last committed step.
    pub(super) fn world_from_checkpoint(&mut self, world_size: u32) {
        let path = format!("checkpoints/step-{:06}", self.step);
        self.world_from(world_size, json!({"from": "checkpoint", "path": path}));
    }

    fn world_from(&mut self, world_size: u32, restore: Value) {
        self.generation += 1;
        self.world_size = world_size;
        let members: Vec<Value> =
            (0..world_size).map(|rank| json!([format!("worker-{rank}"), "1f0c", rank])).collect();
        self.record(
            "generation",
            json!({
                "record": "generation",
                "generation": self.generation,
                "world_size": world_size,
                "committed": self.step,
                "restore": restore,
                "members": members,
            }),
        );
        self.record("formed", json!({"record": "formed", "generation": self.generation}));
    }

    /// A worker is lost: the world is given up and forms again.
    pub(super) fn regroup(&mut self, world_size: u32) {
        self.record(
            "regroup",
            json!({"record": "regroup", "generation": self.generation + 1, "committed": self.step}),
        );
        self.world(world_size);
    }

    /// Steps that are committed.
    pub(super) fn steps(&mut self, number: u64) {
        for _ in 0..number {
            self.step += 1;
            let step = self.step;
            let loss = self.skew / (step as f64 + 0.1);
            let (grad_norm, learning_rate) = (1.0 / (step as f64 + 0.7), 1e-3 / step as f64);
            let epoch = step as f64 / STEPS_PER_EPOCH as f64;
            self.metrics.push(json!({
                "step": step,
                "epoch": epoch,
                "loss": loss,
                "kl": 0.0,
                "grad_norm": grad_norm,
                "learning_rate": learning_rate,
                "num_tokens": 100 * step,
            }));
            self.record(
                "step",
                json!({
                    "record": "step",
                    "step": step,
                    "epoch": epoch,
                    "attempt": self.attempt,
                    "generation": self.generation,
                    "world_size": self.world_size,
                    "rows": rows(step),
                    "pairs_sha256": format!("{step:064x}"),
                    "loss": bits(loss),
                    "reference_point": bits(0.25 / step as f64),
                    "grad_norm": bits(grad_norm),
                    "learning_rate": bits(learning_rate),
                }),
            );
        }
    }

    /// A checkpoint of the last committed step.
    pub(super) fn checkpoint(&mut self) {
        let step = self.step;
        let (manifest_sha256, content_sha256) = checkpoint_digests(step);
        self.checkpoints.push(step);
        self.record(
            "checkpoint_saved",
            json!({
                "record": "checkpoint",
                "step": step,
                "manifest_sha256": manifest_sha256,
                "content_sha256": content_sha256,
            }),
        );
    }

    /// A checkpoint that cannot be used.
    pub(super) fn reject(&mut self, step: u64) {
        let now = std::mem::replace(&mut self.step, step);
        self.event("checkpoint_rejected", "MANIFEST.json: it is gone");
        self.step = now;
    }

    /// A return to the checkpoint of a step, of which a world forms.
    pub(super) fn roll_back(&mut self, step: u64, world_size: u32) {
        self.attempt += 1;
        self.step = step;
        self.metrics.truncate(step as usize);
        self.record(
            "rolled_back",
            json!({"record": "rolled_back", "step": step, "attempt": self.attempt}),
        );
        self.world_from_checkpoint(world_size);
    }

    /// The end in a phase.
    pub(super) fn end(&mut self, phase: &str) {
        self.has_final |= phase == "complete";
        self.record("phase", json!({"record": "ended", "phase": phase}));
    }

    fn record(&mut self, kind: &str, data: Value) {
        self.event(kind, "");
        let line = self.lines.last_mut().unwrap();
        line["data"] = data;
    }

    fn event(&mut self, kind: &str, message: &str) {
        self.lines.push(json!({
            "sequence": self.lines.len() + 1,
            "time": "2026-11-23T13:56:46Z",
            "kind": kind,
            "step": self.step,
            "message": message,
        }));
    }

    /// Writes the run directory.
    pub(super) fn write(&self) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        write_lines(&root.join("journal.jsonl"), &self.lines);
        write_lines(&root.join("metrics.jsonl"), &self.metrics);
        fs::write(root.join("manifest.json"), self.settings.to_string()).unwrap();
        for &step in &self.checkpoints {
            let place = root.join(format!("checkpoints/step-{step:06}"));
            fs::create_dir_all(&place).unwrap();
            for (name, content) in checkpoint_files(step) {
                fs::write(place.join(name), content).unwrap();
            }
        }
        if self.has_final {
            fs::create_dir(root.join("final")).unwrap();
            fs::write(root.join("final/model.safetensors"), "the weights").unwrap();
        }
        dir
    }
}

/// Changes the lines of a file. As text: a JSON library may round the last bit of a number.
pub(super) fn edit(path: &Path, change: impl FnOnce(&mut Vec<String>)) {
    let mut lines = fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect();
    change(&mut lines);
    write_lines(path, &lines);
}

/// Replaces the value of a key, in the record of the line where it has one.
pub(super) fn set(line: &mut String, key: &str, value: impl Into<Value>) {
    let record = line.find("\"data\":").unwrap_or_default();
    let key = format!("\"{key}\":");
    let start = record + line[record..].find(&key).unwrap() + key.len();
    let mut values = serde_json::Deserializer::from_str(&line[start..]).into_iter::<IgnoredAny>();
    values.next().unwrap().unwrap();
    let end = start + values.byte_offset();
    line.replace_range(start..end, &value.into().to_string());
}

/// Index of the `nth` line of the journal, from 0, that holds a record of this name.
pub(super) fn nth(lines: &[String], record: &str, nth: usize) -> usize {
    let name = format!("\"record\":\"{record}\"");
    let mut found = lines.iter().enumerate().filter(|(_, line)| line.contains(&name));
    found.nth(nth).unwrap().0
}

/// Numbers the lines again, as if the change had been there from the start.
pub(super) fn renumber(lines: &mut [String]) {
    for (number, line) in (1..).zip(lines) {
        let data = line.find("\"data\":").map(|start| line.split_off(start)).unwrap_or_default();
        set(line, "sequence", number);
        line.push_str(&data);
    }
}

/// The bits of a number as the ledger has them.
pub(super) fn bits(value: f64) -> String {
    format!("{:016x}", value.to_bits())
}

fn write_lines(path: &Path, lines: &[impl std::fmt::Display]) {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(path, text).unwrap();
}

/// Rows of a step: every epoch another order.
fn rows(step: u64) -> Vec<u64> {
    let (epoch, place) = ((step - 1) / STEPS_PER_EPOCH, (step - 1) % STEPS_PER_EPOCH);
    let positions = place * BATCH..((place + 1) * BATCH).min(ROWS);
    positions.map(|position| (position * 7 + epoch) % ROWS).collect()
}

fn checkpoint_files(step: u64) -> [(&'static str, String); 3] {
    let weights = format!("weights of step {step}");
    let state = format!("{{\"step\":{step}}}");
    let entry = |content: &str| json!({"bytes": content.len(), "sha256": sha256(content)});
    let files = json!({"model.safetensors": entry(&weights), "state.json": entry(&state)});
    let manifest = json!({"format": 1, "step": step, "world_size": 3, "files": files});
    [("model.safetensors", weights), ("state.json", state), ("MANIFEST.json", manifest.to_string())]
}

fn checkpoint_digests(step: u64) -> (String, String) {
    let [(name, weights), _, (_, manifest)] = checkpoint_files(step);
    (sha256(&manifest), sha256(&format!("{name} {}\n", sha256(&weights))))
}

fn sha256(content: &str) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}
