//! `prospect eval`: a model, and if given a reference, on feedback. The data is
//! tokenised here; the worker program only sees tokens.

use prospect_core::{ExitCode, RowId};
use prospect_data::{Classes, RowView, TokenStore};
use serde::{Deserialize, Serialize};

use crate::args::EvalArgs;
use crate::error::CliError;
use crate::metrics::{Metrics, Scored, metrics};
use crate::output;
use crate::pairs::{RowHashes, partners};
use crate::worker_pipe;

use super::data::data_config;

/// A sequence as the worker program reads it.
#[derive(Serialize)]
struct Question {
    prompt_ids: Vec<u32>,
    completion_ids: Vec<u32>,
}

/// What it answers, in nats.
#[derive(Clone, Copy, Deserialize)]
struct Answer {
    log_prob: f64,
    reference_log_prob: Option<f64>,
}

/// Scores all rows, and with a reference all mismatched pairs.
pub fn run(args: &EvalArgs) -> Result<ExitCode, CliError> {
    if !(args.beta.is_finite() && args.beta > 0.0) {
        let (argument, found) = ("--beta", args.beta.to_string());
        return Err(CliError::Argument { argument, found, expected: "a number above 0" });
    }
    let config = data_config(&args.data, &args.read)?;
    let cache = tempfile::tempdir().map_err(|source| CliError::Runtime { source })?;
    let (store, _) =
        TokenStore::open_or_build(&args.data, &args.model, &config, Classes::Any, cache.path())?;
    let rows: Vec<RowView<'_>> = (0..store.len()).map(|row| store.row(RowId(row))).collect();
    let pairs = if args.reference.is_some() { pairs_of(&rows) } else { Vec::new() };

    let max_length = args.read.max_length as usize;
    let own = rows.iter().map(|row| question(row, row, max_length));
    let mismatched =
        pairs.iter().map(|&(prompt, other)| question(&rows[prompt], &rows[other], max_length));
    let questions: Vec<Question> = own.chain(mismatched).collect();
    let mut answers = Vec::with_capacity(questions.len());
    worker_pipe::ask(&worker_arguments(args), &questions, "scoring", |_, answer: Answer| {
        answers.push(answer);
        Ok(())
    })?;

    let (own, mismatched) = answers.split_at(rows.len());
    let scored: Vec<Scored> =
        rows.iter().zip(own).map(|(row, own)| scored(row, own, max_length)).collect();
    let log_ratios: Vec<f64> = mismatched
        .iter()
        .filter_map(|answer| Some(answer.log_prob - answer.reference_log_prob?))
        .collect();
    let text = render(&metrics(&scored, &log_ratios, args.beta), args.json);
    output::print(&text)?;
    Ok(ExitCode::Complete)
}

fn worker_arguments(args: &EvalArgs) -> Vec<String> {
    let mut arguments = vec!["score".into(), "--model".into(), args.model.display().to_string()];
    if let Some(reference) = &args.reference {
        arguments.extend(["--reference".into(), reference.display().to_string()]);
    }
    arguments.extend(worker_pipe::device_arguments(&args.device));
    arguments
}

fn pairs_of(rows: &[RowView<'_>]) -> Vec<(usize, usize)> {
    let hashes: Vec<RowHashes> = rows
        .iter()
        .map(|row| RowHashes { prompt: row.prompt_hash, completion: row.completion_hash })
        .collect();
    let partners = partners(&hashes).into_iter().enumerate();
    partners.filter_map(|(row, partner)| Some((row, partner?))).collect()
}

/// A prompt with its own or another row's completion, whose end is cut.
fn question(prompt: &RowView<'_>, completion: &RowView<'_>, max_length: usize) -> Question {
    let completion = completion.completion_after(prompt.prompt.len(), max_length);
    Question { prompt_ids: prompt.prompt.to_vec(), completion_ids: completion.to_vec() }
}

fn scored(row: &RowView<'_>, answer: &Answer, max_length: usize) -> Scored {
    Scored {
        label: row.label,
        weight: row.weight,
        num_tokens: (row.prompt.len() + row.completion.len()).min(max_length) as u64,
        log_prob: answer.log_prob,
        reference_log_prob: answer.reference_log_prob,
    }
}

fn render(metrics: &Metrics, as_json: bool) -> String {
    if as_json {
        return format!("{}\n", serde_json::Value::Object(metrics.clone()));
    }
    let width = metrics.keys().map(String::len).max().unwrap_or_default();
    let line = |(key, value): (&String, &serde_json::Value)| match value.as_f64() {
        Some(number) if value.is_f64() => format!("{key:<width$}  {number:.6}\n"),
        _ => format!("{key:<width$}  {value}\n"),
    };
    metrics.iter().map(line).collect()
}
