//! `prospect plan`: what a run takes, before anything runs.

mod estimate;
mod place;
mod render;
mod rows;

use prospect_core::{ExitCode, RunConfig};
use prospect_shape::{ComputeType, Parts, Request, Room, Setup, Workload};

use crate::args::PlanArgs;
use crate::error::CliError;
use crate::{files, output};

use estimate::Estimate;
use place::Place;
use rows::Rows;

/// Plans, prints, and refuses what does not fit.
pub fn run(args: &PlanArgs) -> Result<ExitCode, CliError> {
    let place = Place::new(args)?;
    let mut config = files::read_config(&args.config, place.workers)?;
    if let Some(gigabytes) = args.gpu_memory {
        config.train.memory_gb = Some(gigabytes);
    }
    let estimate = estimate(args, &place, &config)?;
    output::print(&if args.json { estimate.to_json() } else { estimate.to_text() })?;
    match estimate.refusal {
        Some(refusal) => Err(refusal.into()),
        None => Ok(ExitCode::Complete),
    }
}

fn estimate(args: &PlanArgs, place: &Place, config: &RunConfig) -> Result<Estimate, CliError> {
    let parts = Parts::of_run(config)?;
    let rows = Rows::of(args, config);
    let num_workers = config.coordinator.workers;
    let device = place.of_worker(num_workers);
    let setup = Setup { loads_reference: !args.scored, ..Setup::new(config, device.kind) };
    let workload = Workload::of_run(config, rows.lengths);
    let room = Room::of_run(config, Some(device), &rows.lengths);
    let tokens = config.train.microbatch_tokens.tokens();
    let setups = [setup];
    let request = Request { parts: &parts, setups: &setups, workload: &workload, room, tokens };
    let budget = request.settle();
    let (hardware, assumptions) = place.hardware(args, num_workers);
    Ok(Estimate {
        name: config.model.path.display().to_string(),
        device: place.words(num_workers),
        num_workers,
        dtype: ComputeType::name(setup.compute),
        num_steps: num_steps(config, &rows),
        // Without a budget the longest sequence shows how far it is from fitting.
        microbatch_tokens: match &budget {
            Ok(budget) => budget.tokens,
            Err(_) => tokens.unwrap_or(workload.lengths.longest),
        },
        refusal: budget.err(),
        parts,
        setup,
        rows,
        workload,
        room,
        hardware,
        assumptions,
    })
}

fn num_steps(config: &RunConfig, rows: &Rows) -> Option<u64> {
    match rows.num_rows {
        Some(num_rows) => Some(config.train.total_steps(num_rows)),
        None => config.train.steps,
    }
}
