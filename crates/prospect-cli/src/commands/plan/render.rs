//! A plan as a table.

use std::fmt::Write;
use std::time::Duration;

use prospect_core::{Mode, Recompute};
use prospect_shape::{DeviceKind, Kind, MainMemory, Memory, Setup};

use super::estimate::Estimate;
use crate::display::{bytes, duration};

impl Estimate {
    /// Everything as lines.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: &str| {
            writeln!(text, "{name:<12} {value}").expect("writing into a string cannot fail");
        };
        let config = self.parts.config();
        line("model", &self.name);
        line(
            "",
            &format!(
                "{} parameters, {} blocks, {}",
                scaled(self.parts.num_parameters() as f64),
                config.num_layers,
                self.dtype
            ),
        );
        line("workers", &format!("{}; {}", self.device, layout(&self.setup)));
        let lengths = &self.workload.lengths;
        let rows = self.rows.num_rows.map(|rows| format!("{rows} rows, ")).unwrap_or_default();
        line(
            "rows",
            &format!(
                "{rows}{:.0} tokens on average, {:.0} of them completion, longest {} ({})",
                lengths.mean(),
                lengths.mean_completion,
                lengths.longest,
                self.rows.source
            ),
        );
        line("", "");
        let memory = self.memory();
        let has_host = self.setup.device == DeviceKind::Cuda;
        let head = if has_host { "device      main memory" } else { "bytes" };
        line("memory", head);
        for kind in Kind::ALL {
            self.memory_line(&memory, kind, has_host, &mut line);
        }
        line("  at most", &columns(memory.device_peak(), memory.host_peak(), has_host));
        line("  of", &self.room_words());
        if let Some(words) = self.main_memory_words(&memory) {
            line("  and", &words);
        }
        line("", "");
        self.time_lines(&mut line);
        text
    }

    fn memory_line(
        &self,
        memory: &Memory,
        kind: Kind,
        has_host: bool,
        line: &mut impl FnMut(&str, &str),
    ) {
        let (device, host) = (memory.on_device(kind), memory.on_host(kind));
        if device + host > 0 {
            line(&format!("  {}", kind.name()), &columns(device, host, has_host));
        }
    }

    fn room_words(&self) -> String {
        let Some(room) = self.room else {
            return "unknown memory; give --gpu-memory or train.memory_gb".to_owned();
        };
        let largest = match self.largest_of_device() {
            Some(tokens) => format!("the largest microbatch_tokens that fits is {tokens}"),
            None => "no microbatch fits".to_owned(),
        };
        let (all, planned) = (bytes(room.memory_bytes), bytes(room.planned_bytes()));
        format!("{all} a worker, of which {planned} are planned with: {largest}")
    }

    /// What the workers of a machine need of its main memory together, where it is known what there is.
    fn main_memory_words(&self, memory: &Memory) -> Option<String> {
        let room = self.room?;
        let MainMemory { bytes: all, workers } = room.main_memory?;
        let planned = bytes(room.main_memory?.planned_bytes());
        let needed = bytes(memory.peak_of_machine(workers));
        let short = if room.has_main_memory(memory) { "" } else { ", which do not fit" };
        let all = bytes(all);
        Some(format!(
            "{all} of main memory a machine, of which {planned} are planned with: its workers ({workers}) need {needed}{short}"
        ))
    }

    fn time_lines(&self, line: &mut impl FnMut(&str, &str)) {
        let time = self.time();
        line(
            "step",
            &format!(
                "{} rows, {} tokens in microbatches of {}, {} FLOP",
                self.workload.global_batch_size,
                scaled(self.workload.tokens()),
                self.microbatch_tokens,
                scaled(time.flops)
            ),
        );
        let parts = [
            ("scoring", time.scoring_seconds),
            ("passes", time.forward_backward_seconds),
            ("waiting", time.waiting_seconds),
            ("optimizer", time.optimizer_seconds),
            ("commit", time.control_seconds),
        ];
        for (name, seconds) in parts {
            line(&format!("  {name}"), &short(seconds));
        }
        let mfu = time.mfu.map(|mfu| format!(", MFU {:.1} %", 100.0 * mfu)).unwrap_or_default();
        let rate = scaled(time.tokens_per_second);
        line("  expected", &format!("{}, {rate} tokens/s{mfu}", short(time.step_seconds)));
        if let Some(steps) = self.num_steps {
            let seconds = steps as f64 * time.step_seconds;
            line("run", &format!("{steps} steps, {}", duration(Duration::from_secs_f64(seconds))));
        }
        for (idx, assumption) in self.assumptions.iter().enumerate() {
            line(if idx == 0 { "assumed" } else { "" }, assumption);
        }
    }
}

fn columns(device: u64, host: u64, has_host: bool) -> String {
    match has_host {
        true => {
            format!("{:>9}   {:>9}", bytes(device), if host > 0 { bytes(host) } else { "-".into() })
        }
        false => format!("{:>9}", bytes(device)),
    }
}

fn layout(setup: &Setup) -> String {
    let mode = match setup.mode {
        Mode::Replicated => "replicated",
        Mode::ShardedOptimizer => "sharded optimizer",
        Mode::FullySharded => "fully sharded",
    };
    let again = match setup.recompute {
        Recompute::None => "nothing computed again",
        Recompute::Blocks => "blocks computed again",
        Recompute::Selective => "cheap work computed again",
    };
    let offload = if setup.offload_optimizer { ", optimizer in main memory" } else { "" };
    format!("{mode}, {again}{offload}")
}

/// 134.5 million as 134.5 M, up to 10^18.
fn scaled(number: f64) -> String {
    let units = [(1e18, " E"), (1e15, " P"), (1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")];
    match units.iter().find(|(unit, _)| number >= *unit) {
        Some((unit, name)) => format!("{:.1}{name}", number / unit),
        None => format!("{number:.0}"),
    }
}

/// Seconds with three digits, milliseconds below one.
fn short(seconds: f64) -> String {
    if seconds >= 1.0 { format!("{seconds:.2} s") } else { format!("{:.1} ms", 1e3 * seconds) }
}

#[cfg(test)]
mod tests;
