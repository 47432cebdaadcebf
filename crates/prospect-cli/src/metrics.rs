//! The metrics of `prospect eval`: sums over rows, divided once (equations of
//! Ethayarajh et al. 2024, section 4.1).

use prospect_core::{KlSums, Label, ReferencePoint, StepSums};
use serde_json::{Map, Value, json};

/// A row under both models.
#[derive(Clone, Copy, Debug)]
pub struct Scored {
    /// What the feedback says.
    pub label: Label,
    /// Weight of the row's loss term.
    pub weight: f64,
    /// Tokens of prompt and completion.
    pub num_tokens: u64,
    /// The policy's log-probability of the completion, in nats.
    pub log_prob: f64,
    /// The reference's, where there is a reference.
    pub reference_log_prob: Option<f64>,
}

/// Metrics by TRL's keys, in the order in which they are shown.
pub type Metrics = Map<String, Value>;

/// Metrics of rows, with the log-ratios of mismatched pairs. Without a reference
/// only what needs none.
pub fn metrics(rows: &[Scored], pair_log_ratios: &[f64], beta: f64) -> Metrics {
    let mut pairs = KlSums::default();
    pair_log_ratios.iter().for_each(|&log_ratio| pairs.push(log_ratio));
    let point = pairs.reference_point();
    let has_reference = rows.iter().all(|row| row.reference_log_prob.is_some());
    let mut sums = StepSums::default();
    rows.iter().for_each(|row| add(&mut sums, row, &point, beta));

    let mut metrics = Metrics::new();
    let mut put = |key: &str, sum: f64, count: u64| {
        if count > 0 {
            metrics.insert(key.to_owned(), json!(sum / count as f64));
        }
    };
    let (num_desirable, num_undesirable) = (sums.num_desirable, sums.num_undesirable);
    if has_reference {
        put("loss", sums.loss, sums.num_examples());
        put("kl", point.z0, 1);
        put("kl_raw", point.raw, 1);
        put("kl_stderr", point.standard_error, 1);
        put("rewards/chosen", sums.reward_desirable, num_desirable);
        put("rewards/rejected", sums.reward_undesirable, num_undesirable);
        if num_desirable > 0 && num_undesirable > 0 {
            let chosen = sums.reward_desirable / num_desirable as f64;
            let rejected = sums.reward_undesirable / num_undesirable as f64;
            put("rewards/margins", chosen - rejected, 1);
        }
        put("rewards/accuracies", sums.num_correct as f64, sums.num_examples());
        put("saturation", sums.saturation, sums.num_examples());
    }
    put("logps/chosen", sums.log_prob_desirable, num_desirable);
    put("logps/rejected", sums.log_prob_undesirable, num_undesirable);
    if has_reference {
        metrics.insert("kl_pairs".into(), json!(point.num_pairs));
    }
    metrics.insert("num_desirable".into(), json!(num_desirable));
    metrics.insert("num_undesirable".into(), json!(num_undesirable));
    metrics.insert("num_tokens".into(), json!(sums.num_tokens));
    metrics
}

/// Adds one row: its argument of the value function is u = s β (r − z0).
fn add(sums: &mut StepSums, row: &Scored, point: &ReferencePoint, beta: f64) {
    let log_ratio = row.log_prob - row.reference_log_prob.unwrap_or(row.log_prob);
    let argument = row.label.sign() * beta * (log_ratio - point.z0);
    let value = 1.0 / (1.0 + (-argument).exp());
    sums.loss += row.weight * (1.0 - value);
    sums.saturation += 4.0 * value * (1.0 - value);
    sums.num_correct += u64::from(argument > 0.0);
    sums.num_tokens += row.num_tokens;
    let (count, reward, log_prob) = match row.label {
        Label::Desirable => {
            (&mut sums.num_desirable, &mut sums.reward_desirable, &mut sums.log_prob_desirable)
        }
        Label::Undesirable => (
            &mut sums.num_undesirable,
            &mut sums.reward_undesirable,
            &mut sums.log_prob_undesirable,
        ),
    };
    *count += 1;
    *reward += beta * log_ratio;
    *log_prob += row.log_prob;
}

#[cfg(test)]
mod tests;
