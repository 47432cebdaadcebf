//! Runs that do not fit into their workers, told before the first step, with what would fit.

use std::fmt;

use prospect_core::{Mode, Recompute};

use crate::devices::DeviceKind;
use crate::fit::{Room, gigabytes_for, largest_microbatch};
use crate::kind::Kind;
use crate::memory::Memory;
use crate::parts::Parts;
use crate::setup::Setup;

/// What a run asks of the memory of its workers.
#[derive(Clone, Copy, Debug)]
pub struct Demand<'a> {
    /// The model and its reference.
    pub parts: &'a Parts,
    /// How they lie on the workers.
    pub setup: &'a Setup,
    /// What there is.
    pub room: Room,
    /// Tokens of the longest sequence, which a microbatch must hold.
    pub longest: u32,
    /// Most tokens that a pass can have: a larger budget changes nothing.
    pub most: u32,
    /// The budget as configured; none for the largest that fits.
    pub tokens: Option<u32>,
}

/// Why a run's budget of tokens cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BudgetRefusal {
    /// The longest sequence has no room in a microbatch.
    #[error(
        "train.microbatch_tokens is {tokens}, but the longest training sequence has {longest} tokens: set it to {longest} or more, or to \"auto\", or data.max_length to at most {tokens}"
    )]
    Sequence {
        /// The budget as configured.
        tokens: u32,
        /// Tokens of the longest sequence.
        longest: u32,
    },
    /// The largest that fits is asked for, and nobody knows into what.
    #[error(
        "train.microbatch_tokens is \"auto\", but the memory of the workers is not known: set train.memory_gb to what each may use, in units of 10^9 bytes, or train.microbatch_tokens to a number"
    )]
    UnknownMemory,
    /// Smaller microbatches would fit.
    #[error(
        "train.microbatch_tokens is {tokens}, for which a worker needs {}, but {} can be planned with: set it to {largest} or less, or to \"auto\", or train.memory_gb to what a worker may use",
        Bytes(*needed), Bytes(*planned)
    )]
    Microbatch {
        /// The budget as configured.
        tokens: u32,
        /// Bytes that it needs.
        needed: u64,
        /// Bytes that are planned with.
        planned: u64,
        /// The budget that would fit.
        largest: u32,
    },
    /// No microbatch that holds the longest sequence fits.
    #[error(
        "the model does not fit: a worker needs {} with microbatches of {longest} tokens, the longest sequence, but {} can be planned with; most of it, {}, is for {}: {}",
        Bytes(*needed), Bytes(*planned), Bytes(*of_kind), kind.name(), Device(remedies, *needed)
    )]
    Model {
        /// Bytes that a worker needs.
        needed: u64,
        /// Bytes that are planned with.
        planned: u64,
        /// Tokens of the longest sequence.
        longest: u32,
        /// What takes most.
        kind: Kind,
        /// Bytes of that.
        of_kind: u64,
        /// What would fit.
        remedies: Vec<Remedy>,
    },
    /// The device has room, and the machine's main memory has not.
    #[error(
        "the machines of the workers have too little main memory: {} {} of it beside the devices, but {} can be planned with; most of it, {}, is for {}: {}",
        Needing(*workers), Bytes(*needed), Bytes(*planned), Bytes(*of_kind), kind.name(),
        Main { remedies, needed: *needed, workers: *workers }
    )]
    MainMemory {
        /// Workers of a machine.
        workers: u32,
        /// Bytes that they need together.
        needed: u64,
        /// Bytes that are planned with.
        planned: u64,
        /// What takes most.
        kind: Kind,
        /// Bytes of that.
        of_kind: u64,
        /// What would fit.
        remedies: Vec<Remedy>,
    },
}

/// A change after which a run fits.
#[derive(Clone, Debug, PartialEq)]
pub struct Remedy {
    /// Keys to set, and the number of workers where it is another one.
    change: String,
    /// Bytes that a worker needs then.
    needed: u64,
    /// Bytes of main memory beside them that all workers of a machine need, or one where their number
    /// is not known; 0 where the device's memory is main memory.
    in_main_memory: u64,
    /// That number, or 1.
    workers: u32,
}

/// Most remedies that are told.
const NUM_TOLD: usize = 3;

/// Most workers that are thought of.
const MOST_WORKERS: u32 = 4096;

/// The budget that a run is to have: the configured one if what a worker has of it fits, else the
/// largest that does.
///
/// # Errors
/// [`BudgetRefusal::Microbatch`], [`BudgetRefusal::Model`] or [`BudgetRefusal::MainMemory`], with what
/// would fit.
pub fn check_memory(demand: &Demand<'_>) -> Result<u32, BudgetRefusal> {
    let Demand { parts, setup, room, longest, most, tokens } = *demand;
    let largest = largest_microbatch(parts, setup, &room).filter(|&largest| largest >= longest);
    let planned = room.planned_bytes();
    let needed = |tokens| Memory::new(parts, setup, tokens, room.completion_share);
    let held = |tokens: u32| tokens.min(most.max(longest));
    match (largest, tokens) {
        (None, _) => {
            let memory = needed(longest);
            Err(match room.main_memory {
                Some(machine) if memory.device_peak() <= planned => {
                    let (kind, of_kind) = memory.largest_of_machine(machine.workers);
                    BudgetRefusal::MainMemory {
                        workers: machine.workers,
                        needed: memory.peak_of_machine(machine.workers),
                        planned: machine.planned_bytes(),
                        kind,
                        of_kind,
                        remedies: remedies(demand),
                    }
                }
                _ => {
                    let kind = memory.largest();
                    BudgetRefusal::Model {
                        needed: memory.device_peak(),
                        planned,
                        longest,
                        kind,
                        of_kind: memory.on_device(kind),
                        remedies: remedies(demand),
                    }
                }
            })
        }
        (Some(largest), Some(tokens)) if held(tokens) > largest => {
            let needed = needed(held(tokens)).device_peak();
            Err(BudgetRefusal::Microbatch { tokens, needed, planned, largest })
        }
        (Some(_), Some(tokens)) => Ok(tokens),
        (Some(largest), None) => Ok(largest),
    }
}

/// Refuses a budget that has no room for the longest sequence.
///
/// # Errors
/// [`BudgetRefusal::Sequence`].
pub fn check_longest(tokens: u32, longest: u32) -> Result<(), BudgetRefusal> {
    if tokens < longest {
        return Err(BudgetRefusal::Sequence { tokens, longest });
    }
    Ok(())
}

/// Changes after which the longest sequence fits, the cheapest first: each alone, then sharding
/// with more workers.
fn remedies(demand: &Demand<'_>) -> Vec<Remedy> {
    let Demand { parts, setup, room, longest, .. } = *demand;
    let is_cuda = setup.device == DeviceKind::Cuda;
    // The canonical reduction needs whole gradients.
    let can_shard = setup.num_parts.is_none();
    let is_sharded = setup.mode == Mode::FullySharded;
    let fully = Setup { mode: Mode::FullySharded, ..*setup };
    let blocks = |setup: Setup| Setup { recompute: Recompute::Blocks, ..setup };
    let mut candidates = Vec::new();
    if setup.recompute != Recompute::Blocks {
        candidates.push(blocks(*setup));
    }
    if is_cuda {
        candidates.push(Setup { offload_optimizer: !setup.offload_optimizer, ..*setup });
    }
    if can_shard && setup.world_size > 1 && !is_sharded {
        candidates.push(Setup { mode: Mode::ShardedOptimizer, ..*setup });
        candidates.push(fully);
        candidates.push(blocks(fully));
    }
    let found = |candidate: Setup| {
        let fits = room.holds(parts, &candidate, longest);
        fits.then(|| remedy(setup, &candidate, demand))
    };
    let mut remedies: Vec<Remedy> = candidates.into_iter().filter_map(found).collect();
    if can_shard {
        let mut world_size = setup.world_size.max(1);
        while remedies.len() < NUM_TOLD && world_size < MOST_WORKERS {
            world_size *= 2;
            let more = [Setup { world_size, ..fully }, blocks(Setup { world_size, ..fully })];
            if let Some(remedy) = more.into_iter().find_map(found) {
                remedies.push(remedy);
                break;
            }
        }
    }
    remedies.truncate(NUM_TOLD);
    remedies
}

fn remedy(from: &Setup, to: &Setup, demand: &Demand<'_>) -> Remedy {
    let mut changes = Vec::new();
    if to.mode != from.mode {
        let name =
            if to.mode == Mode::FullySharded { "fully_sharded" } else { "sharded_optimizer" };
        changes.push(format!("train.mode = \"{name}\""));
    }
    if to.recompute != from.recompute {
        changes.push("train.recompute = \"blocks\"".to_owned());
    }
    if to.offload_optimizer != from.offload_optimizer {
        changes.push(format!("train.offload_optimizer = {}", to.offload_optimizer));
    }
    if to.world_size != from.world_size {
        changes.push(format!("{} workers", to.world_size));
    }
    let memory = Memory::new(demand.parts, to, demand.longest, demand.room.completion_share);
    let workers = demand.room.main_memory.map_or(1, |machine| machine.workers);
    Remedy {
        change: changes.join(" with "),
        needed: memory.device_peak(),
        in_main_memory: memory.peak_of_machine(workers),
        workers,
    }
}

/// What would fit, or how much memory of the device would.
struct Device<'a>(&'a [Remedy], u64);

/// The same of the main memory of machines with so many workers.
struct Main<'a> {
    remedies: &'a [Remedy],
    needed: u64,
    workers: u32,
}

/// The workers of a machine, who need something.
struct Needing(u32);

impl fmt::Display for Device<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(remedies, needed) = *self;
        if remedies.is_empty() {
            return write!(
                f,
                "use workers with more memory, with train.memory_gb = {:.2} or more where they may use it; nine tenths of it are planned with",
                gigabytes_for(needed)
            );
        }
        write!(f, "set {}, or train.memory_gb where a worker may use more", Alternatives(remedies))
    }
}

impl fmt::Display for Main<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { remedies, needed, workers } = *self;
        if !remedies.is_empty() {
            write!(f, "set {}, or ", Alternatives(remedies))?;
        }
        write!(f, "use machines with more than {}", Bytes(needed))?;
        if workers > 1 { write!(f, ", or fewer workers on each") } else { Ok(()) }
    }
}

impl fmt::Display for Needing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => write!(f, "a worker needs"),
            workers => write!(f, "the {workers} workers of one need"),
        }
    }
}

/// One remedy or another.
struct Alternatives<'a>(&'a [Remedy]);

impl fmt::Display for Alternatives<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (idx, remedy) in self.0.iter().enumerate() {
            write!(f, "{}{remedy}", if idx > 0 { ", or " } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { change, needed, in_main_memory, workers } = self;
        write!(f, "{change} ({}", Bytes(*needed))?;
        if *in_main_memory > 0 {
            write!(f, ", and {} of main memory", Bytes(*in_main_memory))?;
            if *workers > 1 {
                write!(f, " for {workers} workers")?;
            }
        }
        write!(f, ")")
    }
}

/// Bytes in units of 10^9, or of 10^6 below one.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        if bytes >= 1e9 {
            write!(f, "{:.1} GB", bytes / 1e9)
        } else {
            write!(f, "{:.0} MB", bytes / 1e6)
        }
    }
}

#[cfg(test)]
mod tests;
