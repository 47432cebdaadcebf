//! How many tokens a worker computes together: what the configuration says, held against the data
//! and the workers' memory, or the most that fits.

use std::fs;
use std::path::Path;

use prospect_core::{MicrobatchTokens, RunConfig};
use prospect_shape::{
    Budget, DeviceKind, Lengths, Parts, Request, Room, Setup, WorkerDevice, Workload, check_longest,
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
    let tokens = config.train.microbatch_tokens.tokens();
    let parts = match (Parts::of_run(config), tokens) {
        (Ok(parts), _) => parts,
        // The workers say what is wrong with it, since they read all of the models.
        (Err(_), Some(tokens)) => return Ok(check_longest(tokens, lengths.longest).map(|()| None)?),
        (Err(error), None) => return Err(error.into()),
    };
    let (room, workload) =
        (Room::of_run(config, device, &lengths), Workload::of_run(config, lengths));
    // Workers from elsewhere may be of either kind.
    let kinds = match device {
        Some(device) => vec![device.kind],
        None => vec![DeviceKind::Cpu, DeviceKind::Cuda],
    };
    let settle = |loads_reference| {
        let setup = |&kind| Setup { loads_reference, ..Setup::new(config, kind) };
        let setups: Vec<Setup> = kinds.iter().map(setup).collect();
        Request { parts: &parts, setups: &setups, workload: &workload, room, tokens }.settle()
    };
    let mut settled = settle(true);
    let depends = match &settled {
        Ok(_) => tokens.is_none(),
        Err(refusal) => refusal.is_for_memory(),
    };
    if depends && reference_is_known()? {
        settled = settle(false);
    }
    let (None, Budget { tokens, largest: Some(largest) }, Some(room)) = (tokens, settled?, room)
    else {
        return Ok(None);
    };
    config.train.microbatch_tokens = MicrobatchTokens::Fixed(tokens);
    Ok(Some(format!(
        "train.microbatch_tokens = {tokens}, with {:.1} GB of memory a worker, into which {largest} would fit",
        room.memory_bytes as f64 / 1e9
    )))
}

/// The budget that a run in this directory began with.
fn recorded(manifest: &Path) -> Option<u32> {
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(manifest).ok()?).ok()?;
    u32::try_from(manifest.get("train.microbatch_tokens")?.as_u64()?).ok()
}
