//! What is looked at, one function a thing.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use prospect_core::{ExitCode, is_model_file};
use prospect_data::ChatTokenizer;

use super::Finding;
use crate::args::DoctorArgs;
use crate::display::bytes;
use crate::error::CliError;
use crate::{devices, worker_binary};

/// Free space below which no run should begin.
const LEAST_FREE_BYTES: u64 = 2_000_000_000;

/// Copies of a model that a run keeps: two checkpoints with three fp32 values a parameter, and the
/// trained model, against two bytes a parameter on disk.
const COPIES_OF_MODEL: u64 = 14;

/// Everything that the arguments ask for.
pub fn all(args: &DoctorArgs) -> Vec<Finding> {
    let model_bytes = args.model.as_deref().map(weight_bytes).unwrap_or_default();
    let mut findings = vec![machine(), worker()];
    // Without a worker program there is nothing that could tell the devices.
    if findings.iter().all(|finding| finding.problem.is_none()) {
        findings.push(devices());
    }
    findings.push(disk(&args.run_dir, model_bytes));
    findings.push(port(&args.listen));
    if let Some(dir) = &args.model {
        findings.push(model(dir, model_bytes));
    }
    findings
}

fn machine() -> Finding {
    let cores = available_parallelism().map_or(1, |cores| cores.get());
    let memory = devices::main_memory_bytes().map(|total| format!(", {} of memory", bytes(total)));
    Finding::ok("machine", format!("{cores} cores{}", memory.unwrap_or_default()))
}

fn worker() -> Finding {
    let program = match worker_binary::find() {
        Ok(program) => program,
        Err(error) => {
            let advice =
                format!("run `make build`, or set {} to the program", worker_binary::VARIABLE);
            return Finding::problem("worker", error.to_string(), advice, ExitCode::Usage);
        }
    };
    match crate::worker_pipe::output_of(&["--version"]) {
        Ok(_) => Finding::ok("worker", format!("{} starts, libtorch loads", program.display())),
        Err(error) => Finding::problem(
            "worker",
            format!("{} does not start: {error}", program.display()),
            "run `make setup build` again: the program looks for libtorch where it was built",
            ExitCode::Usage,
        ),
    }
}

fn devices() -> Finding {
    let names = match devices::names() {
        Ok(names) => names,
        Err(error) => {
            let advice = "run `prospect-worker devices --json` to see its own words";
            return Finding::problem("devices", error.to_string(), advice, ExitCode::Internal);
        }
    };
    let has_driver = Path::new("/dev/nvidiactl").exists();
    if has_driver && !names.iter().any(|name| name.starts_with("cuda:")) {
        return Finding::problem(
            "devices",
            "this machine has an NVIDIA driver, but libtorch sees no GPU",
            "check that `nvidia-smi` lists GPUs and that the driver supports CUDA 13",
            ExitCode::Usage,
        );
    }
    Finding::ok("devices", names.join(", "))
}

/// The directory, or the nearest one above it that exists.
fn existing(dir: &Path) -> PathBuf {
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let nearest = absolute.ancestors().find(|ancestor| ancestor.is_dir());
    nearest.unwrap_or(Path::new("/")).to_owned()
}

fn disk(run_dir: &Path, model_bytes: u64) -> Finding {
    let place = existing(run_dir);
    let needed = LEAST_FREE_BYTES.max(model_bytes.saturating_mul(COPIES_OF_MODEL));
    // Permissions say little about read-only file systems: only writing tells.
    if let Err(error) = tempfile::NamedTempFile::new_in(&place) {
        return Finding::problem(
            "disk",
            format!("{} cannot be written: {error}", place.display()),
            "choose another directory with --run-dir, or change its permissions",
            ExitCode::Storage,
        );
    }
    match rustix::fs::statvfs(&place) {
        Ok(space) => {
            let free = space.f_bavail.saturating_mul(space.f_frsize);
            let found = format!("{} free in {}", bytes(free), place.display());
            if free >= needed {
                return Finding::ok("disk", found);
            }
            let advice = format!("make room: a run needs about {}", bytes(needed));
            Finding::problem("disk", found, advice, ExitCode::Storage)
        }
        Err(error) => Finding::problem(
            "disk",
            format!("the free space of {} cannot be read: {error}", place.display()),
            "choose another directory with --run-dir",
            ExitCode::Storage,
        ),
    }
}

fn port(listen: &str) -> Finding {
    match TcpListener::bind(listen) {
        Ok(_) => Finding::ok("port", format!("{listen} can be listened on")),
        Err(error) => Finding::problem(
            "port",
            format!("{listen} cannot be listened on: {error}"),
            "set coordinator.listen to a free address; port 0 takes any free port",
            ExitCode::Usage,
        ),
    }
}

fn weight_bytes(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    files
        .filter(|file| {
            file.file_name()
                .to_str()
                .is_some_and(|name| is_model_file(name) && name.ends_with(".safetensors"))
        })
        .filter_map(|file| Some(std::fs::metadata(file.path()).ok()?.len()))
        .sum()
}

fn model(dir: &Path, weight_bytes: u64) -> Finding {
    let problem =
        |found: String, advice: &str| Finding::problem("model", found, advice, ExitCode::Usage);
    let shown = dir.display();
    if !dir.join("config.json").is_file() {
        return problem(
            format!("{shown} has no config.json"),
            "give a Hugging Face model directory",
        );
    }
    if weight_bytes == 0 {
        return problem(
            format!("{shown} has no .safetensors files"),
            "convert its weights: only safetensors are read",
        );
    }
    match ChatTokenizer::load(dir) {
        Ok(tokenizer) => {
            let template = match tokenizer.has_chat_template() {
                true => "with a chat template",
                false => "without a chat template: rows must be plain text",
            };
            Finding::ok("model", format!("{shown}, {} of weights, {template}", bytes(weight_bytes)))
        }
        Err(error) => {
            let error = CliError::from(error).to_string();
            problem(
                error,
                "complete the model directory: tokenizer.json and tokenizer_config.json are needed",
            )
        }
    }
}
