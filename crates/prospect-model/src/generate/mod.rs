//! Batched generation with a key-value cache: the prompts go through the model packed, without
//! padding; then every step takes one token of every sequence that has not ended. A sequence's
//! samples depend on the seed, its prompt's index and the position alone; who shares its batch
//! changes them only where floating-point rounding decides.

mod cache;
mod sample;
#[cfg(test)]
mod tests;

use cache::Cache;
use tch::Tensor;

use crate::error::{ModelError, TorchContext};
use crate::model::CausalLm;

/// Sequences that are generated together at most.
const MAX_BATCH: usize = 64;

/// How tokens are chosen and when a sequence ends.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// Tokens to generate at most, the end token included.
    pub max_new_tokens: usize,
    /// Divisor of the logits before sampling; 0 takes the most probable token.
    pub temperature: f64,
    /// Samples only from the most probable tokens that together have this probability; 1 for all.
    pub top_p: f64,
    /// Of the sampling.
    pub seed: u64,
    /// Tokens that end a sequence.
    pub eos_token_ids: Vec<i64>,
}

/// What was generated for one prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// The new tokens, without the prompt and without the end token.
    pub token_ids: Vec<i64>,
    /// Whether it ended with an end token rather than at `max_new_tokens`.
    pub finished: bool,
}

/// A sequence that is being generated.
#[derive(Clone, Copy)]
struct Row {
    prompt_idx: usize,
    /// Tokens whose keys and values are in the cache.
    cached: usize,
    /// The newest token, which is not in the cache.
    token: i64,
}

/// Generates a continuation for each prompt (token ids), in their order.
///
/// # Errors
/// Options out of range, an empty prompt, a prompt that leaves too few positions, a token outside
/// of the vocabulary; libtorch's.
pub fn generate(
    model: &CausalLm,
    prompts: &[Vec<i64>],
    options: &GenerateOptions,
) -> Result<Vec<Generated>, ModelError> {
    options.validate()?;
    check_prompts(model, prompts, options)?;
    let _no_grad = tch::no_grad_guard();
    let mut results = vec![Generated { token_ids: Vec::new(), finished: false }; prompts.len()];
    if options.max_new_tokens > 0 {
        for (chunk_idx, chunk) in prompts.chunks(MAX_BATCH).enumerate() {
            let first = chunk_idx * MAX_BATCH;
            generate_batch(model, chunk, first, options, &mut results[first..])?;
        }
    }
    Ok(results)
}

fn generate_batch(
    model: &CausalLm,
    prompts: &[Vec<i64>],
    first: usize,
    options: &GenerateOptions,
    results: &mut [Generated],
) -> Result<(), ModelError> {
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let mut cache = Cache::new(model, prompts.len(), longest + options.max_new_tokens)?;
    let mut rows: Vec<Row> = prompts
        .iter()
        .enumerate()
        .map(|(idx, prompt)| Row { prompt_idx: first + idx, cached: prompt.len(), token: 0 })
        .collect();
    let mut logits_bv = prefill(model, prompts, &mut cache)?;
    for position in 0..options.max_new_tokens {
        let indices: Vec<usize> = rows.iter().map(|row| row.prompt_idx).collect();
        let tokens = sample::choose(&logits_bv, &indices, position, options)
            .action("choose the next tokens")?;
        let mut kept = Vec::with_capacity(rows.len());
        for (row_idx, (row, token)) in rows.iter_mut().zip(tokens).enumerate() {
            let result = &mut results[row.prompt_idx - first];
            row.token = token;
            result.finished = options.eos_token_ids.contains(&token);
            if !result.finished {
                result.token_ids.push(token);
                kept.push(row_idx);
            }
        }
        if kept.is_empty() || position + 1 == options.max_new_tokens {
            break;
        }
        if kept.len() < rows.len() {
            cache.keep(&kept)?;
            rows = kept.iter().map(|&row_idx| rows[row_idx]).collect();
        }
        logits_bv = decode(model, &mut rows, &mut cache)?;
    }
    Ok(())
}

/// All prompts through the model, packed; fills the cache. Logits of the last tokens, `[B, V]`.
fn prefill(
    model: &CausalLm,
    prompts: &[Vec<i64>],
    cache: &mut Cache,
) -> Result<Tensor, ModelError> {
    let lengths: Vec<usize> = prompts.iter().map(Vec::len).collect();
    let layout = model.layout(&lengths)?;
    let slots: Vec<i64> = lengths
        .iter()
        .enumerate()
        .flat_map(|(row_idx, &length)| (0..length).map(move |at| (row_idx, at)))
        .map(|(row_idx, at)| cache.slot(row_idx, at))
        .collect();
    let slots = to_device(model, &slots)?;
    let scale = model.attention_scale();
    let mut hidden_th = model.embed(&to_device(model, &prompts.concat())?)?;
    for idx in 0..model.config().num_layers {
        hidden_th =
            model.block_with(idx, &hidden_th, &layout.rotary, &mut |query, key, value| {
                cache.write(idx, &slots, key, value)?;
                layout.attend((query, key, value), scale)
            })?;
    }
    let ends = lengths.iter().scan(0, |end, &length| {
        *end += length as i64;
        Some(*end - 1)
    });
    let last = to_device(model, &ends.collect::<Vec<_>>())?;
    let hidden_bh = hidden_th.f_index_select(0, &last).action("select the last tokens")?;
    model.logits(&model.final_norm(&hidden_bh)?)
}

/// The newest token of every row through the model. Logits `[B, V]`.
fn decode(model: &CausalLm, rows: &mut [Row], cache: &mut Cache) -> Result<Tensor, ModelError> {
    let tokens: Vec<i64> = rows.iter().map(|row| row.token).collect();
    let positions: Vec<i64> = rows.iter().map(|row| row.cached as i64).collect();
    let slots: Vec<i64> =
        rows.iter().enumerate().map(|(idx, row)| cache.slot(idx, row.cached)).collect();
    let slots = to_device(model, &slots)?;
    let rotary = model.rotary(&positions)?;
    let window = cache.window(&positions)?;
    let mut hidden_bh = model.embed(&to_device(model, &tokens)?)?;
    for idx in 0..model.config().num_layers {
        hidden_bh = model.block_with(idx, &hidden_bh, &rotary, &mut |query, key, value| {
            cache.write(idx, &slots, key, value)?;
            cache.attend(idx, query, &window)
        })?;
    }
    for row in rows {
        row.cached += 1;
    }
    model.logits(&model.final_norm(&hidden_bh)?)
}

fn check_prompts(
    model: &CausalLm,
    prompts: &[Vec<i64>],
    options: &GenerateOptions,
) -> Result<(), ModelError> {
    let max_positions = model.config().max_positions;
    let vocabulary = 0..model.config().vocab_size;
    for (sequence_idx, prompt) in prompts.iter().enumerate() {
        let length = prompt.len().saturating_add(options.max_new_tokens);
        if prompt.is_empty() {
            let argument = format!("prompt {sequence_idx}");
            return Err(ModelError::argument(argument, "empty", "a prompt needs a token"));
        }
        if length > max_positions {
            return Err(ModelError::SequenceTooLong { sequence_idx, length, max_positions });
        }
        if let Some(token) = prompt.iter().find(|token| !vocabulary.contains(token)) {
            let argument = format!("a token of prompt {sequence_idx}");
            let expected = format!("the vocabulary has {} tokens", vocabulary.end);
            return Err(ModelError::argument(argument, token, expected));
        }
    }
    Ok(())
}

fn to_device(model: &CausalLm, numbers: &[i64]) -> Result<Tensor, ModelError> {
    Ok(prospect_libtorch::upload(numbers, model.device())?)
}

impl GenerateOptions {
    fn validate(&self) -> Result<(), ModelError> {
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            let expected = "it must be 0 for the most probable token, or positive";
            return Err(ModelError::argument("temperature", self.temperature, expected));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            let expected = "it must be above 0 and at most 1";
            return Err(ModelError::argument("top_p", self.top_p, expected));
        }
        Ok(())
    }
}
