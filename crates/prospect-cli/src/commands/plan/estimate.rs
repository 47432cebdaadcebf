//! All figures of a plan.

use prospect_shape::{
    BudgetRefusal, Hardware, Memory, Parts, Room, Setup, StepTime, Times, Workload,
    largest_microbatch,
};
use serde_json::{Value, json};

use super::rows::Rows;

/// What is known of a run before it runs.
pub struct Estimate {
    /// The model's directory.
    pub name: String,
    /// The workers in words.
    pub device: String,
    /// The type that passes compute in.
    pub dtype: &'static str,
    /// Workers that a step's time is for.
    pub num_workers: u32,
    pub parts: Parts,
    /// How the fewest workers hold the run, where each needs the most memory.
    pub setup: Setup,
    pub rows: Rows,
    pub workload: Workload,
    /// Memory of a worker, where it is known.
    pub room: Option<Room>,
    pub hardware: Hardware,
    /// Budget that the figures are for.
    pub microbatch_tokens: u32,
    /// Steps of the run, where they are known.
    pub num_steps: Option<u64>,
    /// Why it does not fit, if it does not.
    pub refusal: Option<BudgetRefusal>,
    /// Where the rates come from.
    pub assumptions: Vec<String>,
}

impl Estimate {
    /// Memory of a worker, with as many of the budget's tokens as it can have in a step.
    pub fn memory(&self) -> Memory {
        let lengths = &self.workload.lengths;
        let most = self.workload.most_tokens_of_pass(&self.setup).max(lengths.longest);
        let tokens = self.microbatch_tokens.min(most);
        Memory::new(&self.parts, &self.setup, tokens, lengths.completion_share())
    }

    /// Time of a step.
    pub fn time(&self) -> StepTime {
        Times {
            parts: &self.parts,
            setup: &Setup { world_size: self.num_workers, ..self.setup },
            workload: &self.workload,
            hardware: &self.hardware,
            microbatch_tokens: self.microbatch_tokens,
        }
        .step()
    }

    /// The largest budget that fits, where the memory is known and one does.
    pub fn largest(&self) -> Option<u32> {
        largest_microbatch(&self.parts, &self.setup, self.room.as_ref()?)
    }

    /// The largest budget that fits into the device, whatever main memory there is.
    pub fn largest_of_device(&self) -> Option<u32> {
        let room = Room { main_memory: None, ..self.room? };
        largest_microbatch(&self.parts, &self.setup, &room)
    }

    /// Everything as one JSON object with a line end.
    pub fn to_json(&self) -> String {
        let memory = self.memory();
        let value: Value = json!({
            "model": self.name,
            "num_parameters": self.parts.num_parameters(),
            "setup": self.setup,
            "workload": self.workload,
            "num_rows": self.rows.num_rows,
            "lengths_from": self.rows.source,
            "microbatch_tokens": self.microbatch_tokens,
            "largest_microbatch_tokens": self.largest(),
            "memory_bytes": self.room.map(|room| room.memory_bytes),
            "planned_bytes": self.room.map(|room| room.planned_bytes()),
            "memory": memory,
            "main_memory": self.room.and_then(|room| room.main_memory).map(|machine| json!({
                "bytes": machine.bytes,
                "planned_bytes": machine.planned_bytes(),
                "workers": machine.workers,
                "needed_bytes": memory.peak_of_machine(machine.workers),
            })),
            "hardware": self.hardware,
            "time": self.time(),
            "num_steps": self.num_steps,
            "run_seconds": self.num_steps.map(|steps| steps as f64 * self.time().step_seconds),
            "refusal": self.refusal.as_ref().map(ToString::to_string),
            "assumptions": self.assumptions,
        });
        format!("{value}\n")
    }
}
