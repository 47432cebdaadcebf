//! Steps of training as a worker does them, on ranks that are threads of this process.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use prospect_core::{ReferenceValue, Restore, RunConfig, Shard, StepReport};
use prospect_train::Trainer;
use prospect_train::libtorch::{Backend, ProcessGroup, TcpStore};
use serde_json::{Value, json};
use tch::Device;

use crate::Result;
use crate::exchange::Exchange;
use crate::rates::wait_for;
use crate::request::{Request, word};
use crate::rows::{Batch, fill};

/// Steps before the measurement.
const WARM_UP: u64 = 1;
/// How long ranks wait for each other.
const PATIENCE: Duration = Duration::from_secs(600);

/// One rank's steps.
struct Series {
    seconds: Vec<f64>,
    reports: Vec<StepReport>,
}

/// Steps that compute the reference or, given its values, know them and hold none. Returns the
/// settings, means over the steps and what was computed of the reference.
///
/// # Errors
/// A model that cannot be loaded, or a step that fails.
pub fn measure(request: &Request, known: Option<Vec<ReferenceValue>>) -> Result<Value> {
    let config = config(request)?;
    let vocab_size = number(&read_config(&request.model)?, "vocab_size")? as u32;
    let batch = Batch::new(request, vocab_size);
    let store = TcpStore::host("127.0.0.1", 0, PATIENCE)?;
    let ranks: Vec<Series> = thread::scope(|scope| {
        let rank = |(rank, mut exchange): (usize, Exchange)| {
            let (config, batch, known, port) = (&config, &batch, known.as_deref(), store.port());
            scope.spawn(move || -> Result<Series> {
                let shards = (batch, known);
                let done = train(request, (config, shards), (rank, port), &mut exchange);
                if let Err(error) = &done
                    && request.ranks > 1
                {
                    // The others would wait for it.
                    eprintln!("rank {rank}: {error}");
                    std::process::exit(1);
                }
                done
            })
        };
        let ranks: Vec<_> =
            Exchange::world(request.ranks).into_iter().enumerate().map(rank).collect();
        let join = |rank: thread::ScopedJoinHandle<'_, Result<_>>| {
            rank.join().map_err(|_| "a rank panicked")?
        };
        ranks.into_iter().map(join).collect::<Result<_>>()
    })?;
    let setting = |settings: &[String]| settings.first().cloned();
    let settings = json!({
        "model": request.model.file_name().map(|name| name.to_string_lossy().into_owned()),
        "device": format!("{:?}", request.device),
        "ranks": request.ranks,
        "threads": request.threads,
        "batch": request.batch,
        "microbatch_tokens": request.microbatch_tokens,
        "dtype": setting(&request.dtypes.iter().map(word).collect::<Vec<_>>()),
        "mode": setting(&request.modes.iter().map(word).collect::<Vec<_>>()),
        "recompute": setting(&request.recompute.iter().map(word).collect::<Vec<_>>()),
        "offload": request.offload,
    });
    let last = ranks.iter().filter_map(|rank| rank.reports.last());
    let values: Vec<&ReferenceValue> = last.flat_map(|report| &report.reference_values).collect();
    Ok(json!({"settings": settings, "means": means(&ranks), "reference_values": values}))
}

/// One rank from loading to its last step.
fn train(
    request: &Request,
    (config, (batch, known)): (&RunConfig, (&Batch, Option<&[ReferenceValue]>)),
    (rank, port): (usize, u16),
    exchange: &mut Exchange,
) -> Result<Series> {
    let mut trainer = match known {
        Some(_) => Trainer::with_known_reference(config, request.device)?,
        None => Trainer::new(config, request.device)?,
    };
    let store = TcpStore::connect("127.0.0.1", port, PATIENCE)?;
    let backend = match request.device {
        Device::Cuda(device) if !request.is_gloo => Backend::Nccl { device },
        _ => Backend::Gloo,
    };
    let group = ProcessGroup::new(backend, &store, "engine", rank, request.ranks, PATIENCE)?;
    trainer.enter(group, &Restore::Initial, Path::new(""))?;

    let mut series = Series { seconds: Vec::new(), reports: Vec::new() };
    for number in 1..=WARM_UP + request.steps {
        let mut shard: Shard = batch.shards(number, request.ranks).swap_remove(rank);
        fill(&mut shard, known.unwrap_or_default());
        let began = Instant::now();
        let report = trainer.step(&shard, exchange)?;
        trainer.apply(shard.step)?;
        wait_for(request.device);
        if number > WARM_UP {
            series.seconds.push(began.elapsed().as_secs_f64());
            series.reports.push(report);
        }
    }
    trainer.close()?;
    Ok(series)
}

/// Means over the steps; times are of the slowest rank.
fn means(ranks: &[Series]) -> Value {
    let steps = ranks.first().map_or(0, |rank| rank.seconds.len()).max(1) as f64;
    let mean = |rank: &Series| rank.seconds.iter().sum::<f64>() / steps;
    let seconds = ranks.iter().map(mean).fold(0.0, f64::max);
    let reports = || ranks.iter().flat_map(|rank| &rank.reports);
    let sums = || reports().flat_map(|report| &report.parts).map(|part| part.sums);
    let tokens = sums().map(|sums| sums.num_tokens as f64).sum::<f64>() / steps;
    let mismatched = sums().map(|sums| sums.num_mismatched_tokens as f64).sum::<f64>() / steps;
    let shared = sums().map(|sums| sums.num_shared_tokens as f64).sum::<f64>() / steps;
    let flops = sums().map(|sums| sums.flops).sum::<f64>() / steps;
    let phase =
        |of: fn(&StepReport) -> f64| reports().map(of).sum::<f64>() / steps / ranks.len() as f64;
    json!({
        "step_seconds": seconds,
        "tokens": tokens,
        "mismatched_tokens": mismatched,
        "shared_tokens": shared,
        "useful_tokens_per_second": tokens / seconds,
        "flops": flops,
        "flops_per_second": flops / seconds,
        "peak_memory_bytes": reports().map(|report| report.peak_memory_bytes).max(),
        "phase_seconds": {
            "scoring": phase(|report| report.phase_seconds.scoring),
            "reference_point": phase(|report| report.phase_seconds.reference_point),
            "forward_backward": phase(|report| report.phase_seconds.forward_backward),
            "all_reduce": phase(|report| report.phase_seconds.all_reduce),
            "gather": phase(|report| report.phase_seconds.gather),
            "optimizer": phase(|report| report.phase_seconds.optimizer),
        },
    })
}

fn config(request: &Request) -> Result<RunConfig> {
    let setting = |settings: Option<String>| settings.unwrap_or_default();
    let text = format!(
        "[model]\npath = {:?}\ndtype = \"{}\"\n[data]\ntrain = [\"made up\"]\n[train]\nsteps = 1\n\
         global_batch_size = {}\nmode = \"{}\"\nrecompute = \"{}\"\noffload_optimizer = {}\n\
         microbatch_tokens = {}\nthreads = {}\n",
        request.model,
        setting(request.dtypes.first().map(word)),
        request.batch,
        setting(request.modes.first().map(word)),
        setting(request.recompute.first().map(word)),
        request.offload,
        request.microbatch_tokens,
        request.threads,
    );
    Ok(RunConfig::parse(&text, &[])?)
}

/// Widths of the residual stream and of the gated layer.
///
/// # Errors
/// A model directory whose configuration cannot be read.
pub fn shape_of(model: &Path) -> Result<(i64, i64)> {
    let config = read_config(model)?;
    Ok((number(&config, "hidden_size")?, number(&config, "intermediate_size")?))
}

fn read_config(model: &Path) -> Result<Value> {
    let path = model.join("config.json");
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(serde_json::from_str(&text)?)
}

fn number(config: &Value, key: &str) -> Result<i64> {
    Ok(config[key].as_i64().ok_or_else(|| format!("config.json has no number {key}"))?)
}
