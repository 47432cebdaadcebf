//! The whole of a run as text, for `prospect status`.

use std::fmt::Write;

use prospect_core::{Phase, Step};
use prospect_proto::{RunStatus, WorkerStatus};

use super::words::{bytes, duration, eval_words, metric_words, percent, slow_words};

/// One fact a line, then one worker a line. Coloured where standard output is a terminal.
pub fn render(status: &RunStatus) -> String {
    let eta = status.eta.map(|eta| format!("eta {}", duration(eta)));
    let steps = format!("{}/{}", status.step, status.total_steps);
    let progress = [steps, format!("epoch {:.2}", status.epoch), eta.unwrap_or_default()];
    let saved = |step: Step| format!("step {step}");
    let failed = match status.num_failed_checkpoints {
        0 => String::new(),
        failed => format!("{failed} in a row could not be saved"),
    };
    let checkpoint = status.checkpoint_step.map_or("none yet".to_owned(), saved);
    let world = format!("{} workers, generation {}", status.world_size, status.generation);
    let attempt = Some(status.attempt).filter(|&attempt| attempt > 1);
    let losses = Some(status.num_losses).filter(|&losses| losses > 0);
    let effective = status.effective_time_ratio;
    let facts = [
        ("run", status.run_id.to_string()),
        ("phase", join(&[coloured(status.phase), status.reason.clone()], ": ")),
        ("step", join(&progress, "  ")),
        ("metrics", metric_words(status)),
        ("evaluation", eval_words(status)),
        ("checkpoint", join(&[checkpoint, failed], "; ")),
        ("run_dir", status.run_dir.clone()),
        ("world", world),
        ("attempt", attempt.map(|attempt| attempt.to_string()).unwrap_or_default()),
        ("losses", losses.map(|losses| losses.to_string()).unwrap_or_default()),
        ("effective", effective.map(effective_words).unwrap_or_default()),
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
        Phase::Stopped | Phase::Recovering => styled.yellow(),
        _ => styled.cyan(),
    };
    styled.to_string()
}

fn effective_words(ratio: f64) -> String {
    format!("{} of the time since training began went into steps that count", percent(ratio))
}

fn worker_line(worker: &WorkerStatus) -> String {
    let rank = worker.rank.map_or("-".to_owned(), |rank| rank.to_string());
    let memory = Some(worker.peak_memory_bytes).filter(|&peak| peak > 0).map(bytes);
    let columns = [
        format!("rank {rank}"),
        worker.worker.to_string(),
        worker.state.name().to_owned(),
        format!("step {}", worker.step),
        worker.activity.clone(),
        slow_words(worker).unwrap_or_default(),
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
