//! Log-probabilities of completions, under one model or under two.

use std::io::{BufRead, Write};
use std::path::PathBuf;

use prospect_core::{RowId, Sequence};
use serde::{Deserialize, Serialize};

use super::lines::{Lines, check_ids, row_error, write_row};
use super::{InferenceError, ModelArgs};
use crate::torch::CausalLm;

/// Microbatches that are read before they are scored together.
const MICROBATCHES_AT_ONCE: usize = 8;

/// What is to be scored, and how.
#[derive(Clone, Debug)]
pub struct ScoreArgs {
    /// The policy.
    pub model: ModelArgs,
    /// A second model to score under.
    pub reference: Option<PathBuf>,
    /// Tokens that are packed and computed together.
    pub microbatch_tokens: u32,
}

/// One row of the input.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    prompt_ids: Vec<u32>,
    completion_ids: Vec<u32>,
}

/// One row of the output.
#[derive(Debug, Serialize)]
struct Scored {
    log_prob: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference_log_prob: Option<f64>,
}

/// Reads `{"prompt_ids", "completion_ids"}` and writes `{"log_prob", "reference_log_prob"}`, in nats.
///
/// # Errors
/// [`InferenceError`]: a bad row by its line, or one whose value is not finite, a model that cannot
/// be loaded or run, a broken stream.
pub fn score(
    args: &ScoreArgs,
    input: impl BufRead,
    mut output: impl Write,
) -> Result<(), InferenceError> {
    let policy = args.model.load(&args.model.model)?;
    let reference = args.reference.as_ref().map(|dir| args.model.load(dir)).transpose()?;
    let vocab_size = reference
        .iter()
        .map(|model| model.config().vocab_size)
        .fold(policy.config().vocab_size, std::cmp::Ord::min);
    let at_once = args.microbatch_tokens as usize * MICROBATCHES_AT_ONCE;
    let mut lines = Lines::new(input);
    let mut group: Vec<Sequence> = Vec::new();
    let mut num_tokens = 0;
    while let Some((line, row)) = lines.next()? {
        let sequence = sequence(line, row, vocab_size)?;
        num_tokens += sequence.num_tokens();
        group.push(sequence);
        if num_tokens >= at_once {
            score_group(args, &policy, reference.as_ref(), &group, &mut output)?;
            group.clear();
            num_tokens = 0;
        }
    }
    score_group(args, &policy, reference.as_ref(), &group, &mut output)
}

fn sequence(line: usize, row: Row, vocab_size: i64) -> Result<Sequence, InferenceError> {
    check_ids(line, "prompt_ids", &row.prompt_ids, vocab_size)?;
    check_ids(line, "completion_ids", &row.completion_ids, vocab_size)?;
    let completion_start = row.prompt_ids.len() as u32;
    let mut token_ids = row.prompt_ids;
    token_ids.extend(row.completion_ids);
    let row = RowId(line as u64);
    Ok(Sequence {
        prompt_row: row,
        completion_row: row,
        token_ids,
        completion_start,
        reference_log_prob: None,
    })
}

fn score_group(
    args: &ScoreArgs,
    policy: &CausalLm,
    reference: Option<&CausalLm>,
    group: &[Sequence],
    output: &mut impl Write,
) -> Result<(), InferenceError> {
    if group.is_empty() {
        return Ok(());
    }
    let of_policy = prospect_train::score(policy, group, args.microbatch_tokens)?;
    let of_reference = reference
        .map(|model| prospect_train::score(model, group, args.microbatch_tokens))
        .transpose()?;
    for (idx, log_prob) in of_policy.into_iter().enumerate() {
        let reference_log_prob = of_reference.as_ref().map(|values| values[idx]);
        if let Some(value) =
            [Some(log_prob), reference_log_prob].into_iter().flatten().find(|v| !v.is_finite())
        {
            // Rows are numbered by their lines.
            let line = group[idx].prompt_row.0 as usize;
            let problem = format!(
                "has a log-probability of {value}; look for weights that are not finite, or set model.dtype to float32"
            );
            return Err(row_error(line, problem));
        }
        write_row(output, &Scored { log_prob, reference_log_prob })?;
    }
    Ok(())
}
