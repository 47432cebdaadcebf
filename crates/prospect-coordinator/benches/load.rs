//! Load on the control plane: a coordinator in a process of its own, and simulated workers in this
//! one that speak the real protocol over loopback, a connection each, heartbeats included, and
//! compute nothing. Every worker exchanges and reports as fast as it is answered, so the figures
//! are of the coordinator and of the workers' own side together, which share the machine; the
//! coordinator's own share is its CPU time.
//!
//!     cargo bench --package prospect-coordinator --bench load -- \
//!         [--workers 16,256,1024,4096] [--rows 10000,100000,1000000,10000000] \
//!         [--steps 50] [--tokens 128] [--json FILE]
//!
//! First the workers grow (4 rows each a step, sequences of `--tokens`), then the rows (256 workers,
//! sequences of 8 tokens). Data is made once, below the target folder.

#[path = "load/coordinator.rs"]
mod coordinator;
#[path = "load/drive.rs"]
mod drive;
#[path = "simulated/run.rs"]
mod run;
#[path = "load/table.rs"]
mod table;
#[path = "simulated/worker.rs"]
mod worker;

use std::path::{Path, PathBuf};

use coordinator::CoordinatorProcess;
use drive::{Measured, drive};
use run::{Rows, Run};
use worker::Result;

/// Rows of a worker in a step.
const ROWS_PER_WORKER: u64 = 4;
/// Workers while the rows grow.
const WORKERS_FOR_ROWS: u32 = 256;
/// Global batches of the data while the workers grow.
const BATCHES: u64 = 2;
/// Shards that are sent ahead, the default of a run.
const LOOKAHEAD: u32 = 2;

/// What is asked for.
#[derive(Debug)]
struct Request {
    workers: Vec<u32>,
    rows: Vec<u64>,
    steps: u32,
    tokens: u64,
    json: Option<PathBuf>,
}

fn main() -> Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, run] = arguments.as_slice()
        && word == coordinator::SERVE
    {
        return coordinator::serve(run);
    }
    // What cargo adds.
    arguments.retain(|argument| argument != "--bench");
    let request = Request::parse(&arguments)?;
    let data = Path::new(env!("CARGO_TARGET_TMPDIR")).join("load");
    let largest = request.workers.iter().copied().max().unwrap_or(0);
    let count = BATCHES * ROWS_PER_WORKER * u64::from(largest);
    let (prompt_tokens, completion_tokens) = (request.tokens / 4, 3 * request.tokens / 4);

    let mut by_workers = Vec::new();
    for &workers in &request.workers {
        let rows = Rows { count, prompt_tokens, completion_tokens };
        by_workers.push(measure(&data, workers, rows, request.steps)?);
    }
    let mut by_rows = Vec::new();
    for &count in &request.rows {
        let rows = Rows { count, prompt_tokens: 4, completion_tokens: 4 };
        by_rows.push(measure(&data, WORKERS_FOR_ROWS, rows, request.steps)?);
    }
    table::print_workers(&by_workers);
    table::print_rows(&by_rows);
    if let Some(path) = request.json {
        std::fs::write(path, table::json(&by_workers, &by_rows).to_string())?;
    }
    Ok(())
}

/// A coordinator's start, its first world and some steps.
fn measure(data: &Path, workers: u32, rows: Rows, steps: u32) -> Result<Measured> {
    let global_batch_size = ROWS_PER_WORKER * u64::from(workers);
    let run = Run { workers, global_batch_size, lookahead: LOOKAHEAD, rows };
    eprintln!("{workers} workers, {} rows", rows.count);
    // The store is made where it is not there yet, which is not what is measured.
    drop(CoordinatorProcess::start(data, &run)?);
    let coordinator = CoordinatorProcess::start(data, &run)?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(drive(&coordinator, &run, steps))
}

impl Request {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut request = Self {
            workers: vec![16, 256, 1024, 4096],
            rows: vec![10_000, 100_000, 1_000_000, 10_000_000],
            steps: 50,
            tokens: 128,
            json: None,
        };
        for pair in arguments.chunks(2) {
            let [name, value] = pair else { return Err(format!("{pair:?} lacks a value").into()) };
            match name.as_str() {
                "--workers" => request.workers = list(value)?,
                "--rows" => request.rows = list(value)?,
                "--steps" => request.steps = value.parse()?,
                "--tokens" => request.tokens = value.parse()?,
                "--json" => request.json = Some(value.into()),
                _ => return Err(format!("{name:?} is unknown").into()),
            }
        }
        Ok(request)
    }
}

/// Numbers with commas between them; none of an empty text.
fn list<T: std::str::FromStr<Err = std::num::ParseIntError>>(text: &str) -> Result<Vec<T>> {
    let numbers = text.split(',').filter(|number| !number.is_empty());
    Ok(numbers.map(str::parse).collect::<std::result::Result<_, _>>()?)
}
