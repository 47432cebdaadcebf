//! The engine alone, without a coordinator: which share of the machine's matrix rate a training
//! step reaches, where its time goes and how much memory it takes. Every setting runs in a process
//! of its own, so that its peak of memory is its own.
//!
//!     cargo bench --package prospect-train --bench engine -- --model DIR \
//!         [--device cpu|cuda] [--dtypes float32,bfloat16] [--modes replicated] [--recompute none] \
//!         [--offload false] [--ranks 1] [--backend gloo|nccl] [--batch 32] [--tokens 256] \
//!         [--max-length 1024] [--microbatch-tokens 2048] [--steps 3] [--threads N] [--json FILE]
//!
//! `--dtypes`, `--modes` and `--recompute` take lists; every combination is measured. Rows are made
//! up; their lengths are spread as those of dialogue data are, about `--tokens` a row. The steps
//! are those of a run: the first epoch's, which compute the reference, and later ones, which know
//! its values and hold no reference. Paths are relative to where the command is given, although
//! cargo starts a benchmark in its package's folder.

#[path = "engine/exchange.rs"]
mod exchange;
#[path = "engine/rates.rs"]
mod rates;
#[path = "engine/request.rs"]
mod request;
#[path = "engine/rows.rs"]
mod rows;
#[path = "engine/steps.rs"]
mod steps;
#[path = "engine/table.rs"]
mod table;

use std::error::Error;
use std::io::Write;
use std::process::{Command, Stdio};

use request::Request;
use serde_json::{Value, json};

/// Whatever keeps the benchmark from going on.
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<()> {
    let request = Request::from_arguments(std::env::args().skip(1))?;
    match request.part.as_deref() {
        Some("rates") => println!("{}", rates::measure(&request)?),
        Some("computed") => println!("{}", steps::measure(&request, None)?),
        Some("known") => {
            let values = serde_json::from_reader(std::io::stdin())?;
            println!("{}", steps::measure(&request, Some(values))?);
        }
        Some(other) => return Err(format!("--part {other:?} is unknown").into()),
        None => measure_all(&request)?,
    }
    Ok(())
}

/// Rates of the machine, then every combination of settings.
fn measure_all(request: &Request) -> Result<()> {
    let (mut rates, mut steps) = (Vec::new(), Vec::new());
    for dtype in &request.dtypes {
        let one = Request { dtypes: vec![*dtype], ..request.clone() };
        eprintln!("matrix rates in {dtype:?}");
        rates.push(in_process(&one, "rates", &Value::Null)?);
        for mode in &request.modes {
            for recompute in &request.recompute {
                let (modes, recompute) = (vec![*mode], vec![*recompute]);
                eprintln!("{dtype:?}, {mode:?}, recompute {recompute:?}");
                let one = Request { modes, recompute, ..one.clone() };
                let mut first = in_process(&one, "computed", &Value::Null)?;
                let later = in_process(&one, "known", &first["reference_values"].take())?;
                steps.push(json!({
                    "settings": first["settings"],
                    "first_epoch": first["means"],
                    "later_epochs": later["means"],
                }));
            }
        }
    }
    table::print(&rates, &steps);
    if let Some(path) = &request.json {
        let all = json!({"rates": rates, "steps": steps});
        std::fs::write(path, serde_json::to_string_pretty(&all)?)?;
    }
    Ok(())
}

/// Runs a part with these settings in a process of its own, which may read `input`; what it prints
/// last.
fn in_process(request: &Request, part: &str, input: &Value) -> Result<Value> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(request.arguments())
        .args(["--part", part])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    if let (Some(mut stdin), false) = (child.stdin.take(), input.is_null()) {
        stdin.write_all(input.to_string().as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        return Err(format!("the part {part} ended with {}; see above", output.status).into());
    }
    let text = String::from_utf8(output.stdout)?;
    Ok(serde_json::from_str(text.lines().last().unwrap_or_default())?)
}
