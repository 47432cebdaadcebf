//! Simulated workers at work, and what is measured of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::coordinator::CoordinatorProcess;
use crate::run::Run;
use crate::worker::{Result, Worker};

/// Workers that join at the same time: fewer than connections that a listener keeps waiting.
const JOINING: usize = 128;
/// Steps before the measurement.
const WARM_UP: u32 = 4;

/// What a run with so many workers and rows came to.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Workers of the world.
    pub workers: u32,
    /// Rows of the data set.
    pub rows: u64,
    /// Steps that were measured.
    pub steps: u32,
    /// From the coordinator's start until it listened, with the token store there.
    pub opening: Duration,
    /// From the first join until all had done the steps before the measurement.
    pub forming: Duration,
    /// Length of the measurement.
    pub elapsed: Duration,
    /// Time that the coordinator computed meanwhile.
    pub cpu: Duration,
    /// From a worker's sums to its reference point, of all workers and steps, ascending.
    pub round_trips: Vec<Duration>,
    /// The coordinator's resident memory before the first worker came.
    pub resident_before: u64,
    /// The same after the last step.
    pub resident_after: u64,
    /// File handles of the coordinator after the last step.
    pub num_files: usize,
}

/// Lets the workers of `run` join, form a world and do `steps`.
///
/// # Errors
/// Whatever ends a worker's session.
pub async fn drive(coordinator: &CoordinatorProcess, run: &Run, steps: u32) -> Result<Measured> {
    let resident_before = coordinator.resident_bytes()?;
    let began = Instant::now();
    let workers = join(&coordinator.url, run.workers).await?;
    let (workers, _) = work(workers, WARM_UP).await?;
    let forming = began.elapsed();

    let (cpu, began) = (coordinator.cpu()?, Instant::now());
    let (workers, mut round_trips) = work(workers, steps).await?;
    let (elapsed, cpu) = (began.elapsed(), coordinator.cpu()? - cpu);
    let (resident_after, num_files) = (coordinator.resident_bytes()?, coordinator.num_files()?);
    drop(workers);
    round_trips.sort_unstable();
    Ok(Measured {
        workers: run.workers,
        rows: run.rows.count,
        steps,
        opening: coordinator.opening,
        forming,
        elapsed,
        cpu,
        round_trips,
        resident_before,
        resident_after,
        num_files,
    })
}

async fn join(url: &str, count: u32) -> Result<Vec<Worker>> {
    let gate = Arc::new(Semaphore::new(JOINING));
    let mut tasks = JoinSet::new();
    for rank in 0..count {
        let (gate, url) = (Arc::clone(&gate), url.to_owned());
        tasks.spawn(async move {
            let place = gate.acquire().await?;
            let mut worker = Worker::join(url, rank).await?;
            drop(place);
            worker.form().await?;
            Result::Ok(worker)
        });
    }
    let mut workers = Vec::new();
    while let Some(joined) = tasks.join_next().await {
        workers.push(joined??);
    }
    Ok(workers)
}

/// Lets every worker do `steps` as fast as it can; the workers, and the round trips of the
/// reference point.
async fn work(workers: Vec<Worker>, steps: u32) -> Result<(Vec<Worker>, Vec<Duration>)> {
    let mut tasks = JoinSet::new();
    for mut worker in workers {
        tasks.spawn(async move {
            let mut round_trips = Vec::with_capacity(steps as usize);
            for _ in 0..steps {
                round_trips.push(step(&mut worker).await?);
            }
            Result::Ok((worker, round_trips))
        });
    }
    let (mut workers, mut round_trips) = (Vec::new(), Vec::new());
    while let Some(done) = tasks.join_next().await {
        let (worker, its) = done??;
        workers.push(worker);
        round_trips.extend(its);
    }
    Ok((workers, round_trips))
}

async fn step(worker: &mut Worker) -> Result<Duration> {
    worker.take_shard().await?;
    let began = Instant::now();
    worker.exchange().await?;
    let round_trip = began.elapsed();
    worker.report().await?;
    Ok(round_trip)
}

impl Measured {
    /// Seconds of a step.
    pub fn step_seconds(&self) -> f64 {
        self.elapsed.as_secs_f64() / f64::from(self.steps.max(1))
    }

    /// Shards, sums and reports a second: as many of each.
    pub fn messages_per_second(&self) -> f64 {
        f64::from(self.workers) / self.step_seconds()
    }

    /// CPU time of the coordinator for one worker's part of a step, in seconds.
    pub fn cpu_seconds_per_share(&self) -> f64 {
        self.cpu.as_secs_f64() / f64::from(self.steps.max(1)) / f64::from(self.workers.max(1))
    }

    /// Round trip of the reference point below which so many hundredths lie.
    pub fn round_trip(&self, percent: usize) -> Duration {
        let idx = self.round_trips.len() * percent / 100;
        self.round_trips.get(idx).or(self.round_trips.last()).copied().unwrap_or_default()
    }

    /// Memory of the coordinator that came with a worker, in bytes.
    pub fn bytes_per_worker(&self) -> f64 {
        let grown = self.resident_after.saturating_sub(self.resident_before);
        grown as f64 / f64::from(self.workers.max(1))
    }
}
