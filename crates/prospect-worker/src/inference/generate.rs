//! Replies to prompts, greedy or sampled.

use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};

use super::lines::{Lines, check_ids, write_row};
use super::{InferenceError, ModelArgs};
use crate::torch::{GenerateOptions, generate_tokens};

/// What is to be generated, and how.
#[derive(Clone, Debug)]
pub struct GenerateArgs {
    /// The model.
    pub model: ModelArgs,
    /// Most tokens of a reply, the end token included.
    pub max_new_tokens: usize,
    /// 0 for greedy.
    pub temperature: f64,
    /// Share of the probability mass that is sampled from.
    pub top_p: f64,
    /// Seed of the samples.
    pub seed: u64,
    /// Tokens that end a reply.
    pub eos_token_ids: Vec<u32>,
}

/// One row of the input.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    prompt_ids: Vec<u32>,
}

/// One row of the output.
#[derive(Debug, Serialize)]
struct Reply {
    token_ids: Vec<i64>,
    finished: bool,
}

/// Reads `{"prompt_ids"}` and writes `{"token_ids", "finished"}`. All prompts
/// are read before the first is answered, since a sample depends on the seed
/// and on its prompt's place in the input.
///
/// # Errors
/// [`InferenceError`]: a bad row by its line, a model that cannot be loaded or run, a broken stream.
pub fn generate(
    args: &GenerateArgs,
    input: impl BufRead,
    mut output: impl Write,
) -> Result<(), InferenceError> {
    let model = args.model.load(&args.model.model)?;
    let vocab_size = model.config().vocab_size;
    let mut lines = Lines::new(input);
    let mut prompts = Vec::new();
    while let Some((line, row)) = lines.next::<Row>()? {
        check_ids(line, "prompt_ids", &row.prompt_ids, vocab_size)?;
        prompts.push(row.prompt_ids.into_iter().map(i64::from).collect());
    }
    let options = GenerateOptions {
        max_new_tokens: args.max_new_tokens,
        temperature: args.temperature,
        top_p: args.top_p,
        seed: args.seed,
        eos_token_ids: args.eos_token_ids.iter().copied().map(i64::from).collect(),
    };
    for generated in generate_tokens(&model, &prompts, &options)? {
        let reply = Reply { token_ids: generated.token_ids, finished: generated.finished };
        write_row(&mut output, &reply)?;
    }
    Ok(())
}
