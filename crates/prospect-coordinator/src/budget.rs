//! How many tokens a worker computes together: what the configuration says, held against the data
//! and the workers' memory, or the most that fits.

use std::fs;
use std::path::Path;

use prospect_core::{MicrobatchTokens, ObjectiveName, RowId, RunConfig};
use prospect_data::TokenStore;
use prospect_shape::{
    BudgetRefusal, Demand, DeviceKind, Lengths, Parts, Room, Setup, WorkerDevice, Workload,
    check_longest, check_memory,
};

use crate::CoordinatorError;

/// Makes `train.microbatch_tokens` a number: the one of the run's `manifest` where the run has begun,
/// whatever today's workers have room for, else the most that fits. Tells what was chosen.
/// `reference_is_known` is asked where it decides: workers do not load a reference whose values are
/// all known.
///
/// # Errors
/// A budget below the longest training sequence, a model that does not fit into the workers, and
/// "auto" where their memory or the model's shape is not known.
pub(crate) fn settle(
    config: &mut RunConfig,
    device: Option<WorkerDevice>,
    (lengths, manifest): (Lengths, &Path),
    reference_is_known: impl FnOnce() -> Result<bool, CoordinatorError>,
) -> Result<Option<String>, CoordinatorError> {
    if config.train.microbatch_tokens == MicrobatchTokens::Auto
        && let Some(tokens) = recorded(manifest)
    {
        config.train.microbatch_tokens = MicrobatchTokens::Fixed(tokens);
        return Ok(None);
    }
    let configured = config.train.microbatch_tokens.tokens();
    if let Some(tokens) = configured {
        check_longest(tokens, lengths.longest)?;
    }
    let typed = config.train.memory_gb.map(|gigabytes| (gigabytes * 1e9) as u64);
    let Some(memory_bytes) = typed.or_else(|| device?.memory_bytes) else {
        return match configured {
            Some(_) => Ok(None),
            None => Err(BudgetRefusal::UnknownMemory.into()),
        };
    };
    let parts = match (Parts::of_run(config), configured) {
        (Ok(parts), _) => parts,
        // The workers say what is wrong with it, since they read all of the models.
        (Err(_), Some(_)) => return Ok(None),
        (Err(error), None) => return Err(error.into()),
    };
    let workload = Workload {
        global_batch_size: config.train.global_batch_size,
        lengths,
        pairs: config.objective.name == ObjectiveName::Kto,
    };
    let most = workload.most_tokens_of_pass(&Setup::new(config, DeviceKind::Cpu));
    let host_bytes = device.and_then(|device| device.host_bytes);
    let room = Room { memory_bytes, host_bytes, completion_share: lengths.completion_share() };
    let fitting = |loads_reference| {
        let setup = |kind| Setup { loads_reference, ..Setup::new(config, kind) };
        let (longest, tokens) = (lengths.longest, configured);
        let demand =
            Demand { parts: &parts, setup: &setup(DeviceKind::Cpu), room, longest, most, tokens };
        match device {
            Some(device) => check_memory(&Demand { setup: &setup(device.kind), ..demand }),
            // Workers from elsewhere may be of either kind: what fits into one is not refused, and
            // what both have room for is chosen where there is a choice.
            None => {
                let on_cpu = check_memory(&demand);
                let on_cuda = check_memory(&Demand { setup: &setup(DeviceKind::Cuda), ..demand });
                match (on_cpu, on_cuda) {
                    (Ok(one), Ok(other)) => Ok(one.min(other)),
                    (Ok(tokens), Err(_)) | (Err(_), Ok(tokens)) => Ok(tokens),
                    (Err(refusal), Err(_)) => Err(refusal),
                }
            }
        }
    };
    let mut fits = fitting(true);
    if (fits.is_err() || configured.is_none()) && reference_is_known()? {
        fits = fitting(false);
    }
    let largest = fits?;
    if configured.is_some() {
        return Ok(None);
    }
    // More than a pass ever has changes nothing.
    let tokens = largest.min(most);
    config.train.microbatch_tokens = MicrobatchTokens::Fixed(tokens);
    Ok(Some(format!(
        "train.microbatch_tokens = {tokens}, with {:.1} GB of memory a worker, into which {largest} would fit",
        memory_bytes as f64 / 1e9
    )))
}

/// Lengths of the training sequences as they are cut.
pub(crate) fn lengths(store: &TokenStore, max_length: u32) -> Lengths {
    let rows = (0..store.len()).map(|row| {
        let row = store.row(RowId(row));
        let completion = row.completion_after(row.prompt.len(), max_length as usize);
        (row.prompt.len() as u32, completion.len() as u32)
    });
    Lengths::of(rows).expect("a token store has rows, and each has tokens")
}

/// The budget that a run in this directory began with.
fn recorded(manifest: &Path) -> Option<u32> {
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(manifest).ok()?).ok()?;
    u32::try_from(manifest.get("train.microbatch_tokens")?.as_u64()?).ok()
}
