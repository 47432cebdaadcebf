//! Numbers as words of a fixed, short form.

use std::time::Duration;

use prospect_core::WorkerState;
use prospect_proto::{RunStatus, WorkerStatus};

/// Metrics that are shown while a run goes on, with their short names.
const SHOWN: [(&str, &str); 5] = [
    ("loss", "loss"),
    ("rewards/margins", "margins"),
    ("rewards/accuracies", "accuracy"),
    ("kl", "kl"),
    ("grad_norm", "grad"),
];

/// A metric of the last step.
fn metric(status: &RunStatus, key: &str) -> Option<f64> {
    status.metrics.as_ref()?.values.get(key).copied()
}

/// The metrics of the last step in one line; empty before the first.
pub fn metric_words(status: &RunStatus) -> String {
    let mut words: Vec<String> = SHOWN
        .iter()
        .filter_map(|(key, name)| metric(status, key).map(|value| format!("{name} {value:.4}")))
        .collect();
    if let Some(rate) = metric(status, "learning_rate") {
        words.push(format!("lr {rate:.1e}"));
    }
    if let Some(rate) = metric(status, "tokens_per_second") {
        words.push(format!("{} tokens/s", count(rate)));
    }
    words.join("  ")
}

/// The rewards and the accuracy of the last evaluation; empty before the first.
pub fn eval_words(status: &RunStatus) -> String {
    // The keys carry the prefix of the evaluation file or none.
    let value = |key: &str| {
        let values = &status.eval_metrics.as_ref()?.values;
        values.get(key).or_else(|| values.get(&format!("eval_{key}"))).copied()
    };
    SHOWN
        .iter()
        .filter(|(key, _)| *key != "grad_norm")
        .filter_map(|(key, name)| value(key).map(|value| format!("{name} {value:.4}")))
        .collect::<Vec<_>>()
        .join("  ")
}

/// 950, 12.3k, 4.5M.
pub fn count(number: f64) -> String {
    match number {
        number if number >= 1e6 => format!("{:.1}M", number / 1e6),
        number if number >= 1e4 => format!("{:.1}k", number / 1e3),
        number => format!("{number:.0}"),
    }
}

/// 8s, 3m 05s, 2h 07m, 4d 03h.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m {:02}s", seconds % 60),
        3600..86_400 => format!("{hours}h {:02}m", minutes % 60),
        _ => format!("{days}d {:02}h", hours % 24),
    }
}

/// 512 MB, 10.0 GB.
pub fn bytes(number: u64) -> String {
    let number = number as f64;
    if number >= 1e9 {
        format!("{:.1} GB", number / 1e9)
    } else {
        format!("{:.0} MB", number / 1e6)
    }
}

/// How many of the world's workers there are, and what each does.
fn worker_words(status: &RunStatus) -> String {
    let gone = [WorkerState::Left, WorkerState::Lost];
    let there = status.workers.iter().filter(|worker| !gone.contains(&worker.state)).count();
    let each = status.workers.iter().map(|worker| {
        let doing = match worker.state {
            WorkerState::Ready => format!("step {}", worker.step),
            state => state.name().to_owned(),
        };
        let slow = slow_words(worker).map(|words| format!(" ({words})")).unwrap_or_default();
        format!("{} {doing}{slow}", worker.worker)
    });
    // More than a line holds says nothing: then only those that are not well are named.
    let all = status.workers.len() <= 4;
    let named: Vec<String> = each
        .zip(&status.workers)
        .filter(|(_, worker)| all || worker.state != WorkerState::Ready || worker.is_straggler)
        .map(|(words, _)| words)
        .collect();
    let mut words = format!("workers {there}/{}", status.world_size);
    if !named.is_empty() {
        words.push_str(": ");
        words.push_str(&named.join(", "));
    }
    words
}

/// The workers, and what the run has survived where it had to survive something.
pub fn crew_words(status: &RunStatus, num_restarts: u64) -> String {
    match health_words(status, num_restarts) {
        health if health.is_empty() => worker_words(status),
        health => format!("{}; {health}", worker_words(status)),
    }
}

/// "slow: 1.8 times the median", for a worker that holds the others up.
pub fn slow_words(worker: &WorkerStatus) -> Option<String> {
    let slowdown = worker.slowdown.filter(|_| worker.is_straggler)?;
    Some(format!("slow: {slowdown:.1} times the median"))
}

/// What the run has survived and what that cost, in one line; empty when nothing happened.
/// `num_restarts` is how many processes have taken another one's place, as far as it is known.
pub fn health_words(status: &RunStatus, num_restarts: u64) -> String {
    let number = |count: u64, one: &str, many: &str| match count {
        0 => None,
        1 => Some(format!("1 {one}")),
        count => Some(format!("{count} {many}")),
    };
    let failed = u64::from(status.num_failed_checkpoints);
    let mut words: Vec<String> = [
        number(status.num_losses, "loss", "losses"),
        number(num_restarts, "restart", "restarts"),
        (status.attempt > 1).then(|| format!("attempt {}", status.attempt)),
        number(failed, "failed checkpoint", "failed checkpoints"),
    ]
    .into_iter()
    .flatten()
    .collect();
    if !words.is_empty() {
        words.insert(0, format!("generation {}", status.generation));
        words.extend(
            status.effective_time_ratio.map(|ratio| format!("{} effective", percent(ratio))),
        );
    }
    words.join(", ")
}

/// 93%.
pub fn percent(ratio: f64) -> String {
    // As a whole number there is no negative zero.
    format!("{}%", (ratio * 100.0).round() as i64)
}

/// What is new beside steps and phases: evaluations, checkpoints, and workers that are slow.
pub fn news(seen: Option<&RunStatus>, status: &RunStatus) -> Vec<String> {
    let mut news = Vec::new();
    let evaluated = seen.and_then(|seen| seen.eval_metrics.as_ref());
    if let Some(point) = status.eval_metrics.as_ref().filter(|&point| Some(point) != evaluated) {
        news.push(format!("evaluation after step {}: {}", point.step, eval_words(status)));
    }
    let saved = seen.and_then(|seen| seen.checkpoint_step);
    if let Some(step) = status.checkpoint_step.filter(|&step| Some(step) != saved) {
        news.push(format!("checkpoint of step {step} saved"));
    }
    let failed = status.num_failed_checkpoints;
    if failed > seen.map_or(0, |seen| seen.num_failed_checkpoints) {
        news.push(format!("a checkpoint could not be saved, {failed} in a row"));
    }
    if seen.is_some_and(|seen| seen.attempt < status.attempt) {
        news.push(format!("back at step {}: attempt {}", status.step, status.attempt));
    }
    news.extend(status.workers.iter().filter_map(|worker| {
        let was_slow = seen.is_some_and(|seen| {
            seen.workers.iter().any(|seen| seen.worker == worker.worker && seen.is_straggler)
        });
        match (was_slow, worker.is_straggler) {
            (false, true) => Some(format!("{} is {}", worker.worker, slow_words(worker)?)),
            (true, false) => Some(format!("{} keeps up again", worker.worker)),
            _ => None,
        }
    }));
    news
}
