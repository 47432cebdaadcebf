//! A coordinator with data, and two workers in session with it.

use std::fs;
use std::future::pending;
use std::path::Path;

use prospect_coordinator::{Coordinator, Options};
use prospect_core::RunConfig;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::worker::{Result, Worker};

/// Words of the tokenizer, as many as a small model has tokens.
const NUM_WORDS: u64 = 49_152;

/// Tokens of a prompt and of a completion, whose last is the end of the text.
const SEQUENCE: (u64, u64) = (80, 160);

/// Rows of the data set: a hundred steps an epoch.
const NUM_ROWS: u64 = 3_200;

/// A run under way. No worker has work in hand between two steps.
pub struct World {
    workers: [Worker; 2],
    /// A step was begun and waits for its reports.
    is_open: bool,
    // Ends before the directory goes away.
    runtime: Runtime,
    _dir: TempDir,
}

impl World {
    /// Starts a coordinator and brings the run to its first step.
    pub fn new(lookahead: u32) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let options = options(dir.path(), lookahead)?;
        let runtime = Runtime::new()?;
        let workers = runtime.block_on(async {
            let coordinator = Coordinator::bind(options).await?;
            let url = format!("http://{}", coordinator.local_addr());
            tokio::spawn(coordinator.run(pending()));
            let joined = tokio::try_join!(Worker::join(url.clone(), 0), Worker::join(url, 1))?;
            Result::Ok([joined.0, joined.1])
        })?;
        Ok(Self { workers, is_open: false, runtime, _dir: dir })
    }

    /// One step from the shards to the commit.
    pub fn step(&mut self) -> Result<()> {
        self.begin_step()?;
        self.exchange()?;
        self.finish_step()
    }

    /// Ends the step before and takes the shards of the next.
    pub fn begin_step(&mut self) -> Result<()> {
        if self.is_open {
            self.finish_step()?;
        }
        let [first, second] = &mut self.workers;
        self.runtime
            .block_on(async { tokio::try_join!(first.take_shard(), second.take_shard()) })?;
        self.is_open = true;
        Ok(())
    }

    /// Sums out, reference point in, on both ranks.
    pub fn exchange(&mut self) -> Result<()> {
        let [first, second] = &mut self.workers;
        self.runtime.block_on(async { tokio::try_join!(first.exchange(), second.exchange()) })?;
        Ok(())
    }

    fn finish_step(&mut self) -> Result<()> {
        let [first, second] = &mut self.workers;
        self.runtime.block_on(async { tokio::try_join!(first.report(), second.report()) })?;
        self.is_open = false;
        Ok(())
    }
}

fn options(dir: &Path, lookahead: u32) -> Result<Options> {
    let (model, data) = (dir.join("model"), dir.join("train.jsonl"));
    fs::create_dir(&model)?;
    write_model(&model)?;
    let rows: String = (0..NUM_ROWS).map(row).collect();
    fs::write(&data, rows)?;
    let text = format!(
        r#"
        [model]
        path = {model:?}
        [data]
        train = [{data:?}]
        [train]
        global_batch_size = 32
        steps = 100000
        microbatch_tokens = 4096
        [checkpoint]
        every_steps = 0
        [coordinator]
        workers = 2
        lookahead_steps = {lookahead}
        heartbeat_timeout_seconds = 50
        "#
    );
    Ok(Options {
        config: RunConfig::parse(&text, &[])?,
        run_dir: dir.join("run"),
        listen: "127.0.0.1:0".into(),
        run_id: None,
        device: None,
    })
}

/// A row of words that differ from row to row; two of five are desirable.
fn row(number: u64) -> String {
    let (num_prompt, num_completion) = SEQUENCE;
    let words = |first: u64, count: u64| {
        let word = |idx| (number * 7919 + idx * 104_729 + 12_345) % NUM_WORDS;
        let words: Vec<String> = (first..first + count).map(|i| format!("w{}", word(i))).collect();
        words.join(" ")
    };
    let prompt = words(0, num_prompt);
    let completion = format!(" {}", words(num_prompt, num_completion - 1));
    format!("{}\n", json!({"prompt": prompt, "completion": completion, "label": number % 5 < 2}))
}

/// A tokenizer of whole words, and files that only have to be there.
fn write_model(dir: &Path) -> Result<()> {
    let vocab: Map<String, Value> = (0..NUM_WORDS)
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
    fs::write(dir.join("tokenizer.json"), tokenizer.to_string())?;
    fs::write(dir.join("tokenizer_config.json"), json!({"eos_token": "<eos>"}).to_string())?;
    fs::write(dir.join("config.json"), "{}")?;
    fs::write(dir.join("model.safetensors"), "no weights")?;
    Ok(())
}
