//! `prospect-worker`: takes part in a run, or computes with a model for
//! programs that do not link libtorch.

mod args;
mod logging;
mod signals;
mod termination;

use std::io::{BufReader, BufWriter, stderr, stdin, stdout};
use std::process;

use clap::Parser as _;
use prospect_core::ExitCode;
use prospect_worker::{Environment, WorkerOptions, generate, list_devices, run_until, score};

use args::{Args, Command, RunArgs};

fn main() -> process::ExitCode {
    let args = Args::try_parse().unwrap_or_else(|error| args::refuse(&error));
    let log = logging::init(args.log_format);
    let in_a_run = matches!(args.command, Command::Run(_));
    let exit = match carry_out(args.command) {
        Ok(exit) => exit,
        Err(failure) => {
            termination::say(stderr(), format!("error: {}", failure.message));
            termination::write(&failure.message);
            failure.exit
        }
    };
    drop(log);
    if in_a_run {
        // A thread that waits for a peer that is gone may still be there.
        signals::end(exit.code());
    }
    process::ExitCode::from(exit.code())
}

/// What is shown and how the process ends when a command fails.
struct Failure {
    message: String,
    exit: ExitCode,
}

fn carry_out(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Run(args) => work(args),
        Command::Score(args) => {
            score(&args.into(), BufReader::new(stdin()), BufWriter::new(stdout()))
                .map_err(|error| Failure { exit: error.exit_code(), message: error.to_string() })?;
            Ok(ExitCode::Complete)
        }
        Command::Generate(args) => {
            generate(&args.into(), BufReader::new(stdin()), BufWriter::new(stdout()))
                .map_err(|error| Failure { exit: error.exit_code(), message: error.to_string() })?;
            Ok(ExitCode::Complete)
        }
        Command::Devices { json } => devices(json),
    }
}

/// Takes part in a run until it ends or a signal asks for the end.
fn work(args: RunArgs) -> Result<ExitCode, Failure> {
    let environment = Environment::read(|name| std::env::var(name).ok())
        .map_err(|error| Failure { exit: ExitCode::Usage, message: error.to_string() })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure {
            exit: ExitCode::Internal,
            message: format!("no runtime can be started: {error}"),
        })?;
    let options = WorkerOptions { environment, ..args.into() };
    let result = runtime.block_on(async { run_until(options, signals::shutdown()).await });
    runtime.shutdown_background();
    result.map_err(|error| Failure { exit: error.exit_code(), message: error.to_string() })
}

fn devices(json: bool) -> Result<ExitCode, Failure> {
    let devices = list_devices();
    if json {
        let text = serde_json::to_string(&devices)
            .map_err(|error| Failure { exit: ExitCode::Internal, message: error.to_string() })?;
        println!("{text}");
        return Ok(ExitCode::Complete);
    }
    for device in devices {
        match (device.cores, device.problem) {
            (_, Some(problem)) => println!("{} (cannot be used: {problem})", device.name),
            (Some(cores), None) => println!("{} ({cores} cores)", device.name),
            (None, None) => println!("{}", device.name),
        }
    }
    Ok(ExitCode::Complete)
}
