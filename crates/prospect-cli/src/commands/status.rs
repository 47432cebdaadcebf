//! `prospect status`: a run as it stands, once or until it ends.

use std::time::Duration;

use prospect_core::ExitCode;
use prospect_proto::Phase;
use tokio::time::{Instant, sleep};

use crate::args::StatusArgs;
use crate::client::{StatusClient, StatusStream};
use crate::display::{Display, table};
use crate::error::CliError;
use crate::{notices, output, status_json};

/// How long a coordinator that is gone is looked for: about as long as workers do.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often.
const INTERVAL: Duration = Duration::from_millis(500);

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

/// Follows the run to its end, also over the death of its coordinator; the exit code tells which
/// end.
async fn watch(mut stream: StatusStream, as_json: bool, url: &str) -> Result<ExitCode, CliError> {
    let mut display = (!as_json).then(Display::new);
    let last = loop {
        let status = match stream.next().await {
            Ok(Some(status)) => status,
            ended => {
                let lost =
                    CliError::Lost { url: url.to_owned(), message: "its stream ended".into() };
                stream = find_again(ended.err().unwrap_or(lost), url).await?;
                continue;
            }
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

/// The stream of a coordinator that was started again, or the error that the last one ended with.
async fn find_again(lost: CliError, url: &str) -> Result<StatusStream, CliError> {
    let began = Instant::now();
    notices::say(&format!("{lost}; looking for it for {} s", PATIENCE.as_secs()));
    while began.elapsed() < PATIENCE {
        sleep(INTERVAL).await;
        if let Ok(client) = StatusClient::connect(url).await
            && let Ok(stream) = client.watch().await
        {
            return Ok(stream);
        }
    }
    Err(lost)
}
