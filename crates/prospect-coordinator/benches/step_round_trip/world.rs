//! A coordinator with data, and two workers in session with it.

use std::future::pending;

use prospect_coordinator::Coordinator;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::run::{Rows, Run};
use crate::worker::{Result, Worker};

/// What is trained on: a hundred steps an epoch, and sequences longer than those of the demo.
const ROWS: Rows = Rows { count: 3_200, prompt_tokens: 80, completion_tokens: 160 };

/// A run under way. No worker has work in hand between two steps.
pub struct World {
    workers: [Worker; 2],
    /// A step was begun and waits for its reports.
    is_open: bool,
    // Ends before the directory goes away.
    runtime: Runtime,
    _dir: TempDir,
}

impl World {
    /// Starts a coordinator and brings the run to its first step.
    pub fn new(lookahead: u32) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let run = Run { workers: 2, global_batch_size: 32, lookahead, rows: ROWS };
        let options = run.options(dir.path(), &dir.path().join("run"))?;
        let runtime = Runtime::new()?;
        let workers = runtime.block_on(async {
            let coordinator = Coordinator::bind(options).await?;
            let url = format!("http://{}", coordinator.local_addr());
            tokio::spawn(coordinator.run(pending()));
            let (mut first, mut second) =
                tokio::try_join!(Worker::join(url.clone(), 0), Worker::join(url, 1))?;
            tokio::try_join!(first.form(), second.form())?;
            Result::Ok([first, second])
        })?;
        Ok(Self { workers, is_open: false, runtime, _dir: dir })
    }

    /// One step from the shards to the commit.
    pub fn step(&mut self) -> Result<()> {
        self.begin_step()?;
        self.exchange()?;
        self.finish_step()
    }

    /// Ends the step before and takes the shards of the next.
    pub fn begin_step(&mut self) -> Result<()> {
        if self.is_open {
            self.finish_step()?;
        }
        let [first, second] = &mut self.workers;
        self.runtime
            .block_on(async { tokio::try_join!(first.take_shard(), second.take_shard()) })?;
        self.is_open = true;
        Ok(())
    }

    /// Sums out, reference point in, on both ranks.
    pub fn exchange(&mut self) -> Result<()> {
        let [first, second] = &mut self.workers;
        self.runtime.block_on(async { tokio::try_join!(first.exchange(), second.exchange()) })?;
        Ok(())
    }

    fn finish_step(&mut self) -> Result<()> {
        let [first, second] = &mut self.workers;
        self.runtime.block_on(async { tokio::try_join!(first.report(), second.report()) })?;
        self.is_open = false;
        Ok(())
    }
}
