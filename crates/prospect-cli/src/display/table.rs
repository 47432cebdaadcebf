//! The whole of a run as text, for `prospect status`.

use std::fmt::Write;

use prospect_core::Step;
use prospect_proto::{Phase, RunStatus, WorkerStatus};

use super::words::{bytes, duration, eval_words, metric_words};

/// One fact a line, then one worker a line. Coloured where standard output is a terminal.
pub fn render(status: &RunStatus) -> String {
    let eta = status.eta.map(|eta| format!("eta {}", duration(eta)));
    let steps = format!("{}/{}", status.step, status.total_steps);
    let progress = [steps, format!("epoch {:.2}", status.epoch), eta.unwrap_or_default()];
    let saved = |step: Step| format!("step {step}");
    let facts = [
        ("run", status.run_id.to_string()),
        ("phase", join(&[coloured(status.phase), status.reason.clone()], ": ")),
        ("step", join(&progress, "  ")),
        ("metrics", metric_words(status)),
        ("evaluation", eval_words(status)),
        ("checkpoint", status.checkpoint_step.map_or("none yet".to_owned(), saved)),
        ("run_dir", status.run_dir.clone()),
        ("world", format!("{} workers, generation {}", status.world_size, status.generation)),
    ];
    let mut text = String::new();
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        writeln!(text, "{name:<11} {value}").expect("writing into a string cannot fail");
    }
    for worker in &status.workers {
        writeln!(text, "  {}", worker_line(worker)).expect("writing into a string cannot fail");
    }
    text
}

fn coloured(phase: Phase) -> String {
    let styled = console::style(phase.name()).bold();
    let styled = match phase {
        Phase::Complete => styled.green(),
        Phase::Failed => styled.red(),
        Phase::Stopped => styled.yellow(),
        _ => styled.cyan(),
    };
    styled.to_string()
}

fn worker_line(worker: &WorkerStatus) -> String {
    let rank = worker.rank.map_or("-".to_owned(), |rank| rank.to_string());
    let memory = Some(worker.peak_memory_bytes).filter(|&peak| peak > 0).map(bytes);
    let columns = [
        format!("rank {rank}"),
        worker.worker.to_string(),
        worker.state.name().to_owned(),
        format!("step {}", worker.step),
        worker.device.clone(),
        memory.unwrap_or_default(),
        format!("heard {:.1}s ago", worker.heartbeat_age.as_secs_f64()),
    ];
    join(&columns, "  ")
}

fn join(parts: &[String], separator: &str) -> String {
    let parts: Vec<&str> =
        parts.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
    parts.join(separator)
}
