//! `prospect plan`: what a run takes, before anything runs.

mod estimate;
mod place;
mod render;
mod rows;

use prospect_core::{ExitCode, MicrobatchTokens, ObjectiveName, RunConfig};
use prospect_shape::{
    BudgetRefusal, ComputeType, Demand, Parts, Room, Setup, Workload, check_longest, check_memory,
};

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
    let setup = Setup { loads_reference: !args.scored, ..Setup::new(config, place.kind()) };
    let workload = Workload {
        global_batch_size: config.train.global_batch_size,
        lengths: rows.lengths,
        pairs: config.objective.name == ObjectiveName::Kto,
    };
    let typed = config.train.memory_gb.map(|gigabytes| (gigabytes * 1e9) as u64);
    let num_workers = config.coordinator.workers;
    let memory_bytes = typed.or_else(|| place.memory_bytes(num_workers));
    let room = memory_bytes.map(|memory_bytes| Room {
        memory_bytes,
        host_bytes: place.host_bytes(num_workers),
        completion_share: workload.lengths.completion_share(),
    });
    let budget = budget(&parts, &setup, (&workload, room, config.train.microbatch_tokens));
    let (hardware, assumptions) = place.hardware(args, num_workers);
    Ok(Estimate {
        name: config.model.path.display().to_string(),
        device: place.words(num_workers),
        num_workers,
        dtype: ComputeType::name(setup.compute),
        num_steps: num_steps(config, &rows),
        refusal: budget.clone().err(),
        // Without a budget the longest sequence shows how far it is from fitting.
        microbatch_tokens: budget
            .ok()
            .or(config.train.microbatch_tokens.tokens())
            .unwrap_or(workload.lengths.longest),
        parts,
        setup,
        rows,
        workload,
        room,
        hardware,
        assumptions,
    })
}

/// The budget that the run would have.
fn budget(
    parts: &Parts,
    setup: &Setup,
    (workload, room, configured): (&Workload, Option<Room>, MicrobatchTokens),
) -> Result<u32, BudgetRefusal> {
    let (longest, tokens) = (workload.lengths.longest, configured.tokens());
    if let Some(tokens) = tokens {
        check_longest(tokens, longest)?;
    }
    match (room, tokens) {
        (Some(room), _) => {
            let most = workload.most_tokens_of_pass(setup);
            let fits = check_memory(&Demand { parts, setup, room, longest, most, tokens })?;
            Ok(tokens.unwrap_or_else(|| fits.min(most)))
        }
        (None, Some(tokens)) => Ok(tokens),
        (None, None) => Err(BudgetRefusal::UnknownMemory),
    }
}

fn num_steps(config: &RunConfig, rows: &Rows) -> Option<u64> {
    match rows.num_rows {
        Some(num_rows) => Some(config.train.total_steps(num_rows)),
        None => config.train.steps,
    }
}
