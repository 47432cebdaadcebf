//! Questions to the worker program: rows of JSON go in, answers come out in
//! the same order, one each.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

use indicatif::{ProgressBar, ProgressStyle};
use prospect_core::ExitCode;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::args::DeviceArgs;
use crate::error::CliError;
use crate::worker_binary;

/// Calls `prospect-worker` with `arguments`, hands it `questions` and gives each
/// answer to `answered` as it arrives. `what` names the work in the progress bar.
pub fn ask<Q, A>(
    arguments: &[String],
    questions: &[Q],
    what: &'static str,
    mut answered: impl FnMut(usize, A) -> Result<(), CliError>,
) -> Result<(), CliError>
where
    Q: Serialize + Sync,
    A: DeserializeOwned,
{
    let child = Mutex::new(start(arguments)?);
    let bar = progress_bar(questions.len() as u64, what);
    let result = converse(&child, questions, |idx, answer| {
        bar.inc(1);
        answered(idx, answer)
    });
    bar.finish_and_clear();
    result
}

/// Calls as many workers at once as there are pairs of arguments and questions. The first failure
/// ends the others.
pub fn ask_all<Q, A>(
    calls: &[(Vec<String>, Vec<Q>)],
    what: &'static str,
    answered: impl Fn(&Q, A) -> Result<(), CliError> + Sync,
) -> Result<(), CliError>
where
    Q: Serialize + Sync,
    A: DeserializeOwned,
{
    let children: Vec<Mutex<Child>> = calls
        .iter()
        .map(|(arguments, _)| Ok(Mutex::new(start(arguments)?)))
        .collect::<Result<_, CliError>>()?;
    let num_questions: usize = calls.iter().map(|(_, questions)| questions.len()).sum();
    let bar = progress_bar(num_questions as u64, what);
    let first_failure = Mutex::new(None);
    let failure = || first_failure.lock().unwrap_or_else(PoisonError::into_inner);
    thread::scope(|scope| {
        for (child, (_, questions)) in children.iter().zip(calls) {
            let (bar, answered, failure, children) = (&bar, &answered, &failure, &children);
            scope.spawn(move || {
                let result = converse(child, questions, |idx, answer| {
                    bar.inc(1);
                    answered(&questions[idx], answer)
                });
                if let Err(error) = result {
                    // How those end that are killed here comes later, and is not told.
                    failure().get_or_insert(error);
                    children.iter().for_each(kill);
                }
            });
        }
    });
    bar.finish_and_clear();
    let failure = failure().take();
    failure.map_or(Ok(()), Err)
}

/// Hands a worker `questions` and gives each answer to `answered` as it arrives.
fn converse<Q, A>(
    child: &Mutex<Child>,
    questions: &[Q],
    mut answered: impl FnMut(usize, A) -> Result<(), CliError>,
) -> Result<(), CliError>
where
    Q: Serialize + Sync,
    A: DeserializeOwned,
{
    let lock = || child.lock().unwrap_or_else(PoisonError::into_inner);
    let (input, output, complaints) = {
        let mut child = lock();
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    };
    let mut num_answers = 0;
    let (result, complaints) = thread::scope(|scope| {
        // A worker that has ended reads no more; why it ended is told by its exit.
        scope.spawn(move || write_rows(input, questions));
        let complaints = scope.spawn(move || read_all(complaints));
        let result = BufReader::new(output.expect("standard output is piped, see start"))
            .lines()
            .map_while(Result::ok)
            .try_for_each(|line| {
                let answer = serde_json::from_str(&line)
                    .map_err(|error| strange(format!("gave no answer but {line:?}: {error}")))?;
                num_answers += 1;
                answered(num_answers - 1, answer)
            });
        if result.is_err() {
            // It ends by itself when its output is closed; it is only hurried.
            kill(child);
        }
        (result, complaints.join().unwrap_or_default())
    });
    let status = lock().wait().map_err(|source| CliError::Runtime { source })?;
    result?;
    if !status.success() {
        return Err(failure(status, &complaints));
    }
    if num_answers != questions.len() {
        return Err(strange(format!("answered {num_answers} of {} rows", questions.len())));
    }
    Ok(())
}

/// The arguments that say where and in which type a model is computed.
pub fn device_arguments(device: &DeviceArgs) -> [String; 4] {
    ["--device", &device.device, "--dtype", &device.dtype].map(str::to_owned)
}

/// What the worker program prints when it is called without rows.
pub fn output_of(arguments: &[&str]) -> Result<String, CliError> {
    let program = worker_binary::find()?;
    let output = Command::new(&program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| CliError::WorkerStart { program, source })?;
    if !output.status.success() {
        return Err(failure(output.status, &String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The sentence that a worker's last words come down to, without the word "error:".
pub fn last_words(complaints: &str) -> String {
    // Log lines that tell of what went well begin with the time and the level.
    let is_good = |line: &&str| line.split_whitespace().nth(1) == Some("INFO");
    let lines = || {
        let lines = complaints.lines().map(str::trim);
        lines.filter(|line| !line.is_empty() && !is_good(line))
    };
    let error = lines().rev().find_map(|line| line.strip_prefix("error: "));
    error.or_else(|| lines().next_back()).unwrap_or("it said nothing").to_owned()
}

/// Why a process of a run ended, in its own words where it had the time for any.
pub fn reason(status: ExitStatus, complaints: &str) -> String {
    match status.signal() {
        // SIGKILL: what it wrote before has nothing to do with its end.
        Some(9) => "it was killed, by someone or for want of memory".to_owned(),
        _ => last_words(complaints),
    }
}

/// An ending in words: "exit code 65", "signal 9".
pub fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown status".to_owned(),
    }
}

/// The exit code that a worker's ending means for this program. One that a signal ended is lost.
pub fn exit_code(status: ExitStatus) -> ExitCode {
    let Some(code) = status.code() else { return ExitCode::PeerLost };
    u8::try_from(code).ok().and_then(ExitCode::from_code).unwrap_or(ExitCode::Internal)
}

fn start(arguments: &[String]) -> Result<Child, CliError> {
    let program = worker_binary::find()?;
    Command::new(&program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| CliError::WorkerStart { program, source })
}

/// Ends a worker that has not ended yet.
fn kill(child: &Mutex<Child>) {
    let _ = child.lock().unwrap_or_else(PoisonError::into_inner).kill();
}

fn write_rows(pipe: Option<impl Write>, questions: &[impl Serialize]) -> std::io::Result<()> {
    let Some(pipe) = pipe else { return Ok(()) };
    let mut pipe = std::io::BufWriter::new(pipe);
    for question in questions {
        serde_json::to_writer(&mut pipe, question)?;
        pipe.write_all(b"\n")?;
    }
    pipe.flush()
}

fn read_all(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // What cannot be read was not said.
        let _ = pipe.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn failure(status: ExitStatus, complaints: &str) -> CliError {
    let message = match status.code() {
        Some(_) => last_words(complaints),
        None => format!("the worker ended with {}: {}", ending(status), last_words(complaints)),
    };
    CliError::WorkerAnswer { message, exit: exit_code(status) }
}

fn strange(problem: String) -> CliError {
    CliError::WorkerAnswer { message: format!("the worker {problem}"), exit: ExitCode::Internal }
}

/// On standard error, and only where that is a terminal.
fn progress_bar(length: u64, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template(TEMPLATE)
        .expect("the template is well formed, as a test shows")
        .progress_chars("━╸─");
    ProgressBar::new(length).with_style(style).with_prefix(what)
}

const TEMPLATE: &str = "{prefix} {pos}/{len} {bar:32.cyan/dim} {eta}";

#[cfg(test)]
mod tests;
