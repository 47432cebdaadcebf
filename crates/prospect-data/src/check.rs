//! Checking feedback without keeping anything.

use std::path::Path;

use prospect_core::DataConfig;

use crate::pipeline::Pipeline;
use crate::report::{LengthUnit, Tally};
use crate::{ChatTokenizer, DataError, DataReport, read};

/// Reads `files` and reports what is in them. With a model directory the rows are tokenised
/// as for training; without one, their form and texts are checked alone.
///
/// Bad rows do not make this fail: [`DataReport::ensure_usable`] judges the report.
///
/// # Errors
/// Files that cannot be read, or a model directory that cannot tokenise their rows.
pub fn check(
    files: &[String],
    model_dir: Option<&Path>,
    config: &DataConfig,
) -> Result<DataReport, DataError> {
    let sources = read::expand(files)?;
    let tokenizer = model_dir.map(ChatTokenizer::load).transpose()?;
    let unit = if tokenizer.is_some() { LengthUnit::Tokens } else { LengthUnit::Characters };
    let mut tally = Tally::new(&sources, unit, config.max_length);
    Pipeline::new(config, tokenizer.as_ref()).run(&sources, |file, line, outcome| {
        tally.add(file, line, outcome);
        Ok(())
    })?;
    Ok(tally.finish())
}
