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
use prospect_worker::{
    DeviceInfo, Environment, WorkerOptions, generate, list_devices, measure_devices, run_until,
    score,
};

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
        Command::Devices { json, measure } => {
            devices(if measure { measure_devices() } else { list_devices() }, json)
        }
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

fn devices(devices: Vec<DeviceInfo>, json: bool) -> Result<ExitCode, Failure> {
    if json {
        let text = serde_json::to_string(&devices)
            .map_err(|error| Failure { exit: ExitCode::Internal, message: error.to_string() })?;
        println!("{text}");
        return Ok(ExitCode::Complete);
    }
    for device in devices {
        let cores = device.cores.map(|cores| format!("{cores} cores"));
        let memory = device.memory_bytes.map(|bytes| format!("{:.1} GB", bytes as f64 / 1e9));
        let rate = device.flops_per_second.map(|rate| format!("{:.3} TFLOP/s", rate / 1e12));
        let problem = device.problem.map(|problem| format!("cannot be used: {problem}"));
        let known = [device.model, cores, memory, rate, problem];
        let words: Vec<String> = known.into_iter().flatten().collect();
        match words.as_slice() {
            [] => println!("{}", device.name),
            words => println!("{} ({})", device.name, words.join(", ")),
        }
    }
    Ok(ExitCode::Complete)
}
