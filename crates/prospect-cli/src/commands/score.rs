//! `prospect score`: the values of the reference model that a run will ask for, computed before
//! it by worker programs side by side.

use std::path::Path;
use std::thread::available_parallelism;
use std::time::Instant;

use prospect_coordinator::ReferenceWork;
use prospect_core::{Dtype, ExitCode, RunConfig};
use prospect_shape::ComputeType;
use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

use crate::args::{ConfigArgs, ScoreArgs};
use crate::error::CliError;
use crate::{devices, files, notices, output, worker_pipe};

/// A sequence as the worker program reads it. Its tokens are looked up when it is written.
struct Question<'a> {
    work: &'a ReferenceWork,
    idx: usize,
}

/// What it answers, in nats.
#[derive(Deserialize)]
struct Answer {
    log_prob: f64,
}

/// The processes that compute.
struct Crew {
    num_workers: u32,
    num_gpus: u32,
    device: String,
    threads: u32,
    dtype: Dtype,
}

/// Scores what is not known yet and tells how much is.
pub fn run(args: ScoreArgs) -> Result<ExitCode, CliError> {
    let began = Instant::now();
    let run_dir = files::run_dir(args.run_dir.as_deref(), &args.config);
    let ScoreArgs { config, set, workers, device, .. } = args;
    let typed = ConfigArgs { config, set, min_workers: None, max_workers: None, resume: None };
    let config = files::read_config(&typed, None)?;
    let crew = Crew::new(&config, workers, device)?;

    let work = ReferenceWork::open(config.clone(), &run_dir, crew.dtype)?;
    let (num_values, num_missing) = (work.num_values(), work.num_missing());
    let dir = work.dir().to_owned();
    if num_missing < num_values {
        let num_known = num_values - num_missing;
        notices::say(&format!("{num_known} of {num_values} values are known already"));
    }
    let shares = work.shares(crew.num_workers as usize).into_iter();
    let calls: Vec<(Vec<String>, Vec<Question<'_>>)> = (0..)
        .zip(shares)
        .map(|(worker, share)| {
            let questions = share.map(|idx| Question { work: &work, idx });
            (crew.arguments(&config, worker), questions.collect())
        })
        .collect();
    worker_pipe::ask_all(&calls, "scoring", |question, answer: Answer| {
        Ok(work.add(question.idx, answer.log_prob)?)
    })
    .inspect_err(|_| {
        let dir = dir.display();
        notices::say(&format!("what was computed is kept in {dir}; the same command goes on"));
    })?;
    drop(calls);
    work.finish()?;
    output::print(&told(num_values, num_missing, (&dir, began)))?;
    Ok(ExitCode::Complete)
}

fn told(num_values: usize, num_computed: usize, (dir, began): (&Path, Instant)) -> String {
    let (dir, seconds) = (dir.display(), began.elapsed().as_secs_f64());
    format!(
        "all {num_values} values of the reference model are known, {num_computed} of them computed in {seconds:.1} s: {dir}\n"
    )
}

impl Crew {
    fn new(config: &RunConfig, workers: Option<u32>, device: String) -> Result<Self, CliError> {
        let num_gpus = if device == "auto" { devices::num_gpus()? } else { 0 };
        let num_workers = workers.unwrap_or(num_gpus.max(1));
        let cores = available_parallelism().map_or(1, |cores| cores.get() as u32);
        Ok(Self {
            num_workers,
            num_gpus,
            threads: config.train.threads.unwrap_or((cores / num_workers).max(1)),
            dtype: ComputeType::of(
                config.model.dtype,
                devices::of_worker(&device, num_workers).kind,
            )
            .dtype(),
            device,
        })
    }

    /// What the worker program of this number is called with.
    fn arguments(&self, config: &RunConfig, worker: u32) -> Vec<String> {
        let reference = config.reference.path.as_ref().unwrap_or(&config.model.path);
        let dtype = match self.dtype {
            Dtype::Auto => "auto",
            Dtype::Float32 => "float32",
            Dtype::Bfloat16 => "bfloat16",
        };
        let mut arguments = vec!["score".to_owned()];
        for (name, value) in [
            ("--model", reference.display().to_string()),
            ("--device", devices::device_of(&self.device, self.num_gpus, worker)),
            ("--dtype", dtype.to_owned()),
            ("--threads", self.threads.to_string()),
        ] {
            arguments.extend([name.to_owned(), value]);
        }
        if let Some(tokens) = config.train.microbatch_tokens.tokens() {
            arguments.extend(["--microbatch-tokens".to_owned(), tokens.to_string()]);
        }
        arguments
    }
}

impl Serialize for Question<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let sequence = self.work.sequence(self.idx);
        let (prompt, completion) = sequence.token_ids.split_at(sequence.completion_start as usize);
        let mut row = serializer.serialize_struct("Question", 2)?;
        row.serialize_field("prompt_ids", prompt)?;
        row.serialize_field("completion_ids", completion)?;
        row.end()
    }
}
