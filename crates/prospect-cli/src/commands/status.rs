//! `prospect status`: a run as it stands, once or until it ends.

use prospect_core::ExitCode;
use prospect_proto::Phase;

use crate::args::StatusArgs;
use crate::client::{StatusClient, StatusStream};
use crate::display::{Display, table};
use crate::error::CliError;
use crate::{output, status_json};

/// Shows the run.
pub async fn run(args: StatusArgs) -> Result<ExitCode, CliError> {
    let mut client = StatusClient::connect(&args.url).await?;
    if args.watch {
        return watch(client.watch().await?, args.json, &args.url).await;
    }
    let status = client.get().await?;
    let text = if args.json { status_json::line(&status) } else { table::render(&status) };
    output::print(&text)?;
    Ok(ExitCode::Complete)
}

/// Follows the run to its end; the exit code tells which end.
async fn watch(mut stream: StatusStream, as_json: bool, url: &str) -> Result<ExitCode, CliError> {
    let mut display = (!as_json).then(Display::new);
    let last = loop {
        let Some(status) = stream.next().await? else {
            return Err(CliError::Lost { url: url.to_owned(), message: "its stream ended".into() });
        };
        match &mut display {
            Some(display) => display.update(&status),
            None => output::print(&status_json::line(&status))?,
        }
        if status.phase.is_terminal() {
            break status;
        }
    };
    if let Some(display) = display {
        display.finish();
        output::print(&table::render(&last))?;
    }
    Ok(match last.phase {
        Phase::Complete => ExitCode::Complete,
        Phase::Stopped => ExitCode::Preempted,
        _ => ExitCode::PeerLost,
    })
}
