//! `prospect doctor`: one line for everything that training needs, and what to
//! do about what is missing. Python is not among it: libtorch is linked.

mod checks;

use prospect_core::ExitCode;
use serde_json::json;

use crate::args::DoctorArgs;
use crate::error::CliError;
use crate::output;

/// What was found about one thing.
pub struct Finding {
    /// The thing.
    pub name: &'static str,
    /// What was found.
    pub found: String,
    /// What keeps it from working, if anything does.
    pub problem: Option<Problem>,
}

/// What is wrong and how to mend it.
pub struct Problem {
    /// What to do.
    pub advice: String,
    /// The exit code of a run that fails because of it.
    pub exit: ExitCode,
}

/// Looks at everything; the exit code is that of the first problem.
pub fn run(args: &DoctorArgs) -> Result<ExitCode, CliError> {
    let findings = checks::all(args);
    let text = if args.json { as_json(&findings) } else { as_text(&findings) };
    output::print(&text)?;
    let exit = findings.iter().find_map(|finding| Some(finding.problem.as_ref()?.exit));
    Ok(exit.unwrap_or(ExitCode::Complete))
}

impl Finding {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, found: found.into(), problem: None }
    }

    fn problem(
        name: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
        exit: ExitCode,
    ) -> Self {
        let problem = Some(Problem { advice: advice.into(), exit });
        Self { name, found: found.into(), problem }
    }
}

fn as_json(findings: &[Finding]) -> String {
    let findings: Vec<_> = findings
        .iter()
        .map(|finding| {
            let advice = finding.problem.as_ref().map(|problem| &problem.advice);
            json!({
                "name": finding.name,
                "ok": finding.problem.is_none(),
                "found": finding.found,
                "advice": advice,
            })
        })
        .collect();
    format!("{}\n", json!({ "checks": findings }))
}

fn as_text(findings: &[Finding]) -> String {
    let line = |finding: &Finding| match &finding.problem {
        None => {
            let ok = console::style("ok").green();
            format!("{ok}       {:<8} {}\n", finding.name, finding.found)
        }
        Some(problem) => {
            let (word, arrow) =
                (console::style("problem").red().bold(), console::style("->").cyan());
            format!("{word}  {:<8} {}\n  {arrow} {}\n", finding.name, finding.found, problem.advice)
        }
    };
    findings.iter().map(line).collect()
}
