//! A model directory, data and a configuration, all tiny, and runs in them.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use prospect_core::{RunConfig, StepMetrics};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::script::Script;
use super::started::{Finished, Started};
use crate::{Coordinator, Options};

/// What several runs share.
pub(super) struct World {
    dir: TempDir,
    overrides: Vec<String>,
}

impl World {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("model");
        fs::create_dir(&model).unwrap();
        write_model(&model);
        fs::write(dir.path().join("train.jsonl"), rows(20, 3)).unwrap();
        fs::write(dir.path().join("eval.jsonl"), rows(8, 40)).unwrap();
        Self { dir, overrides: Vec::new() }
    }

    /// The same files with another configuration.
    pub(super) fn with(mut self, overrides: &[&str]) -> Self {
        self.overrides.extend(overrides.iter().map(ToString::to_string));
        self
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn options(&self, run: &str) -> Options {
        let text = format!(
            r#"
            [model]
            path = {model:?}
            [data]
            train = [{train:?}]
            eval = [{eval:?}]
            max_length = 12
            [objective]
            beta = 0.1
            undesirable_weight = "auto"
            [train]
            global_batch_size = 6
            steps = 8
            eval_every = 3
            microbatch_tokens = 24
            learning_rate = 1e-3
            [checkpoint]
            every_steps = 3
            keep = 2
            [coordinator]
            workers = 2
            lookahead_steps = 2
            heartbeat_interval_seconds = 0.05
            heartbeat_timeout_seconds = 20
            join_timeout_seconds = 20
            collective_timeout_seconds = 30
            "#,
            model = self.path("model"),
            train = self.path("train.jsonl"),
            eval = self.path("eval.jsonl"),
        );
        Options {
            config: RunConfig::parse(&text, &self.overrides).unwrap(),
            run_dir: self.path(run),
            listen: "127.0.0.1:0".into(),
            run_id: None,
            device: None,
        }
    }

    /// Runs to the end with one worker a script.
    pub(super) async fn run(&self, run: &str, scripts: &[Script]) -> Finished {
        self.run_until(run, scripts, std::future::pending()).await
    }

    pub(super) async fn run_until(
        &self,
        run: &str,
        scripts: &[Script],
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Finished {
        let started = self.start(run, scripts, Box::pin(shutdown)).await;
        started.finish().await
    }

    /// Starts a run and its workers.
    pub(super) async fn start(
        &self,
        run: &str,
        scripts: &[Script],
        shutdown: Pin<Box<dyn Future<Output = ()> + Send>>,
    ) -> Started {
        let coordinator = Coordinator::bind(self.options(run)).await.unwrap();
        Started::new(coordinator, scripts, shutdown)
    }

    /// Waits until so many steps are on record.
    pub(super) async fn until_step(&self, run: &str, step: usize) {
        let path = self.path(run).join("metrics.jsonl");
        while fs::read_to_string(&path).map_or(0, |text| text.lines().count()) < step {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The ledger, as the step, the attempt, the generation and the rest of every line.
    pub(super) fn ledger(&self, run: &str) -> Vec<(u64, u64, u64, Map<String, Value>)> {
        let lines = self.lines(run, "journal.jsonl");
        let steps = lines.iter().filter(|line| line["kind"] == "step");
        steps
            .map(|line| {
                let mut data = line["data"].as_object().unwrap().clone();
                let mut number = |key| data.remove(key).unwrap().as_u64().unwrap();
                let (step, attempt, generation) =
                    (number("step"), number("attempt"), number("generation"));
                (step, attempt, generation, data)
            })
            .collect()
    }

    /// What happened in a run, by kind.
    pub(super) fn messages(&self, run: &str, kind: &str) -> Vec<String> {
        let lines = self.lines(run, "journal.jsonl");
        let wanted = lines.iter().filter(|line| line["kind"] == kind);
        wanted.map(|line| line["message"].as_str().unwrap().to_owned()).collect()
    }

    /// Steps on record.
    pub(super) fn metrics(&self, run: &str) -> Vec<StepMetrics> {
        let text = fs::read_to_string(self.path(run).join("metrics.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Objects of a file of lines.
    pub(super) fn lines(&self, run: &str, file: &str) -> Vec<Map<String, Value>> {
        let text = fs::read_to_string(self.path(run).join(file)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Names in a directory of a run, sorted.
    pub(super) fn names(&self, run: &str, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(run).join(dir)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Rows of words, desirable in two of five.
fn rows(count: usize, first: usize) -> String {
    let words = |start: usize, len: usize| {
        let words: Vec<String> = (0..len).map(|idx| format!("w{}", (start + idx) % 90)).collect();
        words.join(" ")
    };
    (0..count)
        .map(|row| {
            let prompt = words(first + row, 2 + row % 4);
            let completion = format!(" {}", words(first + 7 * row + 5, 1 + row % 6));
            let line = json!({"prompt": prompt, "completion": completion, "label": row % 5 < 2});
            format!("{line}\n")
        })
        .collect()
}

/// A tokenizer of whole words, and files that only have to be there.
fn write_model(dir: &Path) {
    let vocab: Map<String, Value> = (0..90)
        .map(|word| (format!("w{word}"), json!(word + 2)))
        .chain([("<eos>".to_owned(), json!(0)), ("<unk>".to_owned(), json!(1))])
        .collect();
    let eos = json!({
        "id": 0, "content": "<eos>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true,
    });
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [eos],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    });
    fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let config = json!({"eos_token": "<eos>"});
    fs::write(dir.join("tokenizer_config.json"), config.to_string()).unwrap();
    fs::write(dir.join("config.json"), "{}").unwrap();
    fs::write(dir.join("model.safetensors"), "no weights").unwrap();
}
