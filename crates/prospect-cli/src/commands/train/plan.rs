//! From what was typed to what is run: how many workers, on which devices,
//! with how many threads, in which directory.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::thread::available_parallelism;

use prospect_coordinator::Options;
use prospect_core::RunConfig;

use crate::args::TrainArgs;
use crate::crew::CrewOptions;
use crate::error::CliError;
use crate::{devices, files};

/// A run on this machine.
pub struct Plan {
    /// The configuration with everything that follows from this machine.
    pub config: RunConfig,
    /// Where the run keeps its files.
    pub run_dir: PathBuf,
    device: String,
    num_gpus: u32,
    threads: u32,
    max_restarts: u32,
}

impl Plan {
    /// Reads the configuration and looks at the machine.
    pub fn new(args: &TrainArgs) -> Result<Self, CliError> {
        let num_gpus = if args.device == "auto" { devices::num_gpus() } else { Ok(0) };
        let as_many_as_gpus = || num_gpus.as_ref().map_or(1, |&num_gpus| num_gpus.max(1));
        let is_free = args.workers.is_none() && !files::names_workers(&args.config);
        let workers = if is_free { Some(as_many_as_gpus()) } else { args.workers };
        // A mistake in the configuration is told before one of the machine.
        let mut config = files::read_config(&args.config, workers)?;
        let num_gpus = num_gpus?;
        let cores = available_parallelism().map_or(1, |cores| cores.get() as u32);
        let threads =
            config.train.threads.unwrap_or_else(|| (cores / config.coordinator.workers).max(1));
        config.train.threads = Some(threads);
        let run_dir = files::run_dir(args.run_dir.as_deref(), &args.config.config);
        let (device, max_restarts) = (args.device.clone(), args.max_restarts);
        Ok(Self { config, run_dir, device, num_gpus, threads, max_restarts })
    }

    /// What the coordinator is told.
    pub fn options(&self) -> Options {
        Options {
            config: self.config.clone(),
            run_dir: self.run_dir.clone(),
            listen: self.config.coordinator.listen.clone(),
            run_id: None,
            device: Some(devices::of_worker(&self.device, self.config.coordinator.workers)),
        }
    }

    /// What the workers are told.
    pub fn crew(&self, url: &str) -> CrewOptions {
        CrewOptions {
            workers: self.config.coordinator.workers,
            url: url.to_owned(),
            device: self.device.clone(),
            num_gpus: self.num_gpus,
            threads: self.threads,
            log_dir: self.log_dir(),
            max_restarts: self.max_restarts,
        }
    }

    /// Fewest workers with which the run goes on.
    pub fn min_workers(&self) -> u32 {
        self.config.coordinator.least_workers()
    }

    /// Directory of the logs of all processes.
    pub fn log_dir(&self) -> PathBuf {
        self.run_dir.join("logs")
    }

    /// Where this machine's workers reach a coordinator that listens on `address`.
    pub fn url(&self, address: SocketAddr) -> String {
        let mut address = address;
        if address.ip().is_unspecified() {
            address.set_ip(match address.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        format!("http://{address}")
    }
}
