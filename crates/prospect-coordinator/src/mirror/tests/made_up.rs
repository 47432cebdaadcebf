//! Run directories that no worker has written.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::memory::InMemory;
use prospect_core::Step;
use serde_json::{Map, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::hex::hex;
use crate::mirror::Mirror;

/// A run directory with records, and checkpoints where they are made.
pub(super) struct MadeUpRun(TempDir);

/// A mirror that nothing else can see.
pub(super) fn in_memory() -> Mirror {
    let root = object_store::path::Path::from("runs/one");
    Mirror { store: Arc::new(InMemory::new()), root, name: "memory".to_owned() }
}

impl MadeUpRun {
    pub(super) fn new() -> Self {
        let run = Self(tempfile::tempdir().unwrap());
        for (name, content) in [
            ("manifest.json", "{}"),
            ("run.toml", ""),
            ("metrics.jsonl", ""),
            ("journal.jsonl", ""),
        ] {
            fs::write(run.root().join(name), content).unwrap();
        }
        fs::create_dir(run.root().join("checkpoints")).unwrap();
        run.note("run_started");
        run
    }

    pub(super) fn root(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn checkpoint_dir(&self, step: u64) -> PathBuf {
        self.root().join("checkpoints").join(Step(step).directory_name())
    }

    /// Adds a line to the journal.
    pub(super) fn note(&self, kind: &str) {
        let path = self.root().join("journal.jsonl");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, text + &json!({ "kind": kind }).to_string() + "\n").unwrap();
    }

    /// Adds the checkpoint of a step.
    pub(super) fn checkpoint(&self, step: u64) {
        self.checkpoint_of(step, &format!("weights of step {step}"));
    }

    /// Adds the checkpoint of a step with these weights.
    pub(super) fn checkpoint_of(&self, step: u64, weights: &str) {
        let dir = self.checkpoint_dir(step);
        fs::create_dir_all(dir.join("model")).unwrap();
        let state = format!("{{\"step\":{step}}}");
        let mut files = Map::new();
        for (name, content) in [
            ("model/model.safetensors", weights),
            ("optimizer.safetensors", weights),
            ("state.json", &state),
        ] {
            fs::write(dir.join(name), content).unwrap();
            let sha256 = hex(&Sha256::digest(content));
            files.insert(name.to_owned(), json!({"bytes": content.len(), "sha256": sha256}));
        }
        let manifest = json!({"format": 1, "step": step, "world_size": 1, "files": files});
        fs::write(dir.join("MANIFEST.json"), manifest.to_string()).unwrap();
    }
}

/// All files below a directory with what they hold.
pub(super) fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_owned();
                found.insert(name, fs::read(path).unwrap());
            }
        }
    }
    found
}
