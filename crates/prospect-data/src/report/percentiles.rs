//! Lengths of rows in a few numbers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Lengths of prompts, completions and both together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lengths {
    /// What is counted.
    pub unit: LengthUnit,
    /// Prompts.
    pub prompt: Percentiles,
    /// Completions.
    pub completion: Percentiles,
    /// Prompt and completion of a row.
    pub both: Percentiles,
}

/// What lengths are counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LengthUnit {
    /// Tokens of the model.
    Tokens,
    /// Characters, where there is no tokenizer.
    Characters,
}

/// A distribution. A percentile lies at rank `p (n - 1)`, interpolated between its two
/// neighbours and rounded.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is the percentile in its name")]
pub struct Percentiles {
    /// Sum over all rows.
    pub total: u64,
    /// Mean.
    pub mean: f64,
    pub p5: u32,
    pub p50: u32,
    pub p75: u32,
    pub p90: u32,
    pub p95: u32,
    pub p99: u32,
    /// Greatest.
    pub max: u32,
}

impl Percentiles {
    /// Of `lengths`, in any order; nothing of nothing.
    pub(crate) fn of(mut lengths: Vec<u32>) -> Option<Self> {
        lengths.sort_unstable();
        let max = *lengths.last()?;
        let total: u64 = lengths.iter().map(|&length| u64::from(length)).sum();
        let at = |percent: f64| {
            let rank = percent / 100.0 * (lengths.len() - 1) as f64;
            let (below, above) = (lengths[rank.floor() as usize], lengths[rank.ceil() as usize]);
            let between = f64::from(below) + rank.fract() * (f64::from(above) - f64::from(below));
            between.round_ties_even() as u32
        };
        Some(Self {
            total,
            mean: total as f64 / lengths.len() as f64,
            p5: at(5.0),
            p50: at(50.0),
            p75: at(75.0),
            p90: at(90.0),
            p95: at(95.0),
            p99: at(99.0),
            max,
        })
    }
}

impl fmt::Display for LengthUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tokens => "tokens",
            Self::Characters => "characters",
        })
    }
}
