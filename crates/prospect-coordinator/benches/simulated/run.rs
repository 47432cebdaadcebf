//! Data and configuration of a run whose workers compute nothing.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;

use prospect_coordinator::Options;
use prospect_core::RunConfig;
use serde_json::{Map, Value, json};

use crate::worker::Result;

/// Words of the tokenizer, as many as a small model has tokens.
const NUM_WORDS: u64 = 49_152;

/// Rows of words that differ from row to row.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// How many.
    pub count: u64,
    /// Tokens of a prompt.
    pub prompt_tokens: u64,
    /// Tokens of a completion, the end of the text among them.
    pub completion_tokens: u64,
}

/// A run with workers that compute nothing.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Workers of its world.
    pub workers: u32,
    /// Rows of a step over all workers.
    pub global_batch_size: u64,
    /// Shards that are sent ahead.
    pub lookahead: u32,
    /// What is trained on.
    pub rows: Rows,
}

impl Run {
    /// Options of the run in `run_dir`. Its data lies in `data_dir` and is made where it is not
    /// there; the token store stays beside it.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn options(&self, data_dir: &Path, run_dir: &Path) -> Result<Options> {
        let Self { workers, global_batch_size, lookahead, rows } = *self;
        let model = data_dir.join("model");
        fs::create_dir_all(&model)?;
        write_model(&model)?;
        let data = rows.write(data_dir)?;
        let text = format!(
            r#"
            [model]
            path = {model:?}
            [data]
            train = [{data:?}]
            cache_dir = {cache:?}
            [train]
            global_batch_size = {global_batch_size}
            steps = 100000
            microbatch_tokens = 4096
            [checkpoint]
            every_steps = 0
            [coordinator]
            workers = {workers}
            lookahead_steps = {lookahead}
            heartbeat_timeout_seconds = 50
            "#,
            cache = data_dir.join("tokens"),
        );
        Ok(Options {
            config: RunConfig::parse(&text, &[])?,
            run_dir: run_dir.to_owned(),
            listen: "127.0.0.1:0".into(),
            run_id: None,
            device: None,
        })
    }
}

impl Rows {
    /// Writes the rows where they are not there yet; their file.
    fn write(&self, dir: &Path) -> Result<std::path::PathBuf> {
        let Self { count, prompt_tokens, completion_tokens } = self;
        let path = dir.join(format!("rows-{count}-{prompt_tokens}-{completion_tokens}.jsonl"));
        if !path.exists() {
            let unfinished = path.with_extension("unfinished");
            let mut file = BufWriter::new(File::create(&unfinished)?);
            for number in 0..*count {
                writeln!(file, "{}", self.row(number))?;
            }
            file.into_inner()?.sync_all()?;
            fs::rename(unfinished, &path)?;
        }
        Ok(path)
    }

    /// Two of five rows are desirable.
    fn row(&self, number: u64) -> Value {
        let words = |first: u64, count: u64| {
            // Every row differs, also beyond as many rows as there are words.
            let round = number / NUM_WORDS;
            let word = |idx| {
                (number * 7919 + round * (idx * idx + 1) + idx * 104_729 + 12_345) % NUM_WORDS
            };
            let words: Vec<String> =
                (first..first + count).map(|i| format!("w{}", word(i))).collect();
            words.join(" ")
        };
        let prompt = words(0, self.prompt_tokens);
        let completion = format!(" {}", words(self.prompt_tokens, self.completion_tokens - 1));
        json!({"prompt": prompt, "completion": completion, "label": number % 5 < 2})
    }
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
