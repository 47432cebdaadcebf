//! `prospect verify`: proves from the files of a run directory that no step and no example was
//! lost. A reader of its own: it shares no code with what writes those files.

mod compare;
mod data;
mod digests;
mod durability;
mod finding;
mod judge;
mod lines;
mod records;
mod report;
mod run;
mod sequence;
#[cfg(test)]
mod tests;
mod trajectory;
mod writer;

use std::path::Path;

use prospect_core::ExitCode;

use self::judge::Judgement;
use self::run::Run;
use crate::args::VerifyArgs;
use crate::error::CliError;
use crate::output;

/// Judges a run directory, against another one if there is one.
///
/// # Errors
/// A directory that holds no run, or files that cannot be read.
pub fn run(args: VerifyArgs) -> Result<ExitCode, CliError> {
    let run = open("RUN_DIR", &args.run_dir)?;
    let against = args.against.as_deref().map(|dir| open("--against", dir)).transpose()?;
    let judgement = Judgement::new(&run, against.as_ref())?;
    let text = if args.json { judgement.to_json() } else { judgement.to_string() };
    output::print(&text)?;
    Ok(if judgement.holds() { ExitCode::Complete } else { ExitCode::Corrupt })
}

fn open(argument: &'static str, dir: &Path) -> Result<Run, CliError> {
    if !dir.join(run::JOURNAL).is_file() {
        return Err(CliError::Argument {
            argument,
            found: dir.display().to_string(),
            expected: "the directory of a run: it holds a journal.jsonl",
        });
    }
    Run::read(dir)
}
