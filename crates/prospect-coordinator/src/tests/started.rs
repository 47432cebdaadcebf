//! A run that is under way, with its workers and its coordinators.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::script::{Peers, Script, Seen};
use super::worker::{Place, work};
use crate::{Coordinator, CoordinatorError, Options, RunOutcome};

/// What came of a run.
pub(super) struct Finished {
    pub(super) outcome: RunOutcome,
    /// What each worker saw.
    pub(super) workers: Vec<Seen>,
}

/// A run that is under way.
pub(super) struct Started {
    pub(super) url: String,
    pub(super) run: JoinHandle<Result<RunOutcome, CoordinatorError>>,
    pub(super) workers: Vec<JoinHandle<Seen>>,
    place: Place,
    /// Where workers learn the address of the next coordinator.
    urls: watch::Sender<String>,
}

impl Started {
    /// A run of a coordinator that holds its port already.
    pub(super) fn new(
        coordinator: Coordinator,
        scripts: &[Script],
        shutdown: Pin<Box<dyn Future<Output = ()> + Send>>,
    ) -> Self {
        let url = format!("http://{}", coordinator.local_addr());
        let run = tokio::spawn(coordinator.run(shutdown));
        let (urls, receiver) = watch::channel(url.clone());
        let place = Place { url: receiver, peers: Peers::default() };
        let mut started = Self { url, run, workers: Vec::new(), place, urls };
        for (rank, script) in scripts.iter().enumerate() {
            started.add(rank as u32, script.clone());
        }
        started
    }

    /// Starts a worker.
    pub(super) fn add(&mut self, rank: u32, script: Script) {
        let name = format!("worker-{rank}");
        self.workers.push(tokio::spawn(work(self.place.clone(), name, rank, script)));
    }

    /// Runs a worker that the run does not keep, to its end.
    pub(super) async fn try_worker(&self, rank: u32) -> Seen {
        let name = format!("worker-{rank}");
        work(self.place.clone(), name, rank, Script::default()).await
    }

    /// Ends the coordinator without a word, and begins another one in its place.
    pub(super) async fn restart(&mut self, options: Options) {
        self.run.abort();
        let ended = (&mut self.run).await;
        assert!(ended.is_err_and(|error| error.is_cancelled()), "the run has ended before");
        let coordinator = loop {
            match Coordinator::bind(options.clone()).await {
                Ok(coordinator) => break coordinator,
                // The first one lets go of the directory a moment later.
                Err(CoordinatorError::RunDir { .. }) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => panic!("{error}"),
            }
        };
        self.url = format!("http://{}", coordinator.local_addr());
        self.urls.send_replace(self.url.clone());
        self.run = tokio::spawn(coordinator.run(std::future::pending()));
    }

    /// Waits for the end of the run and of its workers.
    pub(super) async fn finish(mut self) -> Finished {
        let outcome = (&mut self.run).await.unwrap().unwrap();
        let mut workers = Vec::new();
        for worker in self.workers {
            workers.push(worker.await.unwrap());
        }
        Finished { outcome, workers }
    }
}
