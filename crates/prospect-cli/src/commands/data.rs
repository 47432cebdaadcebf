//! `prospect data check`: what is in feedback files, and what cannot be used.

use prospect_core::{Columns, DataConfig, ExitCode, Order, Overlong};

use crate::args::{DataCheckArgs, DataCommand, ReadArgs};
use crate::error::CliError;
use crate::output;

/// Carries out a subcommand.
pub fn run(command: DataCommand) -> Result<ExitCode, CliError> {
    let DataCommand::Check(args) = command;
    let config = data_config(&args.files, &args.read)?;
    let report = prospect_data::check(&args.files, args.model.as_deref(), &config)?;
    print(&args, &report)?;
    let refused = !report.bad_rows.is_empty() && !args.read.skip_bad_rows;
    Ok(if refused { ExitCode::Corrupt } else { ExitCode::Complete })
}

fn print(args: &DataCheckArgs, report: &prospect_data::DataReport) -> Result<(), CliError> {
    let text = if args.json {
        let line = serde_json::to_string(report);
        line.map_err(|error| CliError::Output { source: error.into() })? + "\n"
    } else {
        report.to_string()
    };
    output::print(&text)
}

/// The `[data]` section that the arguments stand for.
pub fn data_config(files: &[String], args: &ReadArgs) -> Result<DataConfig, CliError> {
    if args.max_length < 2 {
        return Err(CliError::Argument {
            argument: "--max-length",
            found: args.max_length.to_string(),
            expected: "2 or more: a prompt token and a completion token must fit",
        });
    }
    Ok(DataConfig {
        train: files.to_vec(),
        eval: Vec::new(),
        max_length: args.max_length,
        order: Order::Sequential,
        columns: columns(&args.column)?,
        label_threshold: args.label_threshold,
        overlong: Overlong::Error,
        skip_bad_rows: args.skip_bad_rows,
        cache_dir: None,
    })
}

/// Names of the columns, with those renamed that the arguments rename.
pub fn columns(entries: &[String]) -> Result<Columns, CliError> {
    let mut columns = Columns::default();
    entries.iter().try_for_each(|entry| rename(&mut columns, entry))?;
    Ok(columns)
}

fn rename(columns: &mut Columns, entry: &str) -> Result<(), CliError> {
    let refused = || CliError::Argument {
        argument: "--column",
        found: entry.to_owned(),
        expected: "COLUMN=NAME, where COLUMN is prompt, completion, label, chosen, rejected, \
                   messages, kto_tag or weight",
    };
    let (column, name) = entry.split_once('=').ok_or_else(refused)?;
    let column = match column {
        "prompt" => &mut columns.prompt,
        "completion" => &mut columns.completion,
        "label" => &mut columns.label,
        "chosen" => &mut columns.chosen,
        "rejected" => &mut columns.rejected,
        "messages" => &mut columns.messages,
        "kto_tag" => &mut columns.kto_tag,
        "weight" => &mut columns.weight,
        _ => return Err(refused()),
    };
    if name.is_empty() {
        return Err(refused());
    }
    *column = name.to_owned();
    Ok(())
}
