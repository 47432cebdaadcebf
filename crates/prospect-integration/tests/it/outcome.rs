//! What a run left behind, and how two runs compare.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use prospect_coordinator::{Phase, RunOutcome};
use prospect_core::{ExitCode, StepMetrics};
use prospect_worker::WorkerError;
use serde_json::{Map, Value};
use tempfile::TempDir;

use crate::world::read;
use prospect_integration::relay::PointBits;
use prospect_integration::weights::weights;

/// One line of a file of metrics.
pub type Line = Map<String, Value>;

/// A run that has ended.
pub struct Outcome {
    /// What the coordinator says.
    pub run: RunOutcome,
    /// How the workers ended, by rank.
    pub workers: Vec<Result<ExitCode, WorkerError>>,
    /// Reference points that each worker received.
    pub points: BTreeMap<String, Vec<PointBits>>,
    /// The run directory.
    pub run_dir: PathBuf,
    /// What the run directory lies in, kept for as long as it is looked at.
    #[expect(dead_code, reason = "it is held, not read")]
    pub dir: Arc<TempDir>,
}

impl Outcome {
    /// Fails unless the run and all its workers are complete.
    pub fn expect_complete(self) -> Self {
        assert_eq!(self.run.phase, Phase::Complete, "{}", self.run.message);
        assert_eq!(self.run.exit, ExitCode::Complete);
        for worker in &self.workers {
            assert!(matches!(worker, Ok(ExitCode::Complete)), "{worker:?}");
        }
        self
    }

    /// Exit codes of the workers.
    pub fn worker_exits(&self) -> Vec<ExitCode> {
        let code = |worker: &Result<ExitCode, WorkerError>| match worker {
            Ok(exit) => *exit,
            Err(error) => error.exit_code(),
        };
        self.workers.iter().map(code).collect()
    }

    /// All lines of `metrics.jsonl`.
    pub fn metrics(&self) -> Vec<Line> {
        lines(&read(&self.run_dir, "metrics.jsonl"))
    }

    /// One key of all steps.
    pub fn curve(&self, key: &str) -> Vec<f64> {
        self.metrics().iter().map(|line| number(line, key)).collect()
    }

    /// The metrics without what depends on the machine and the moment.
    pub fn timeless_metrics(&self) -> Vec<Line> {
        let mut metrics = self.metrics();
        for line in &mut metrics {
            line.retain(|key, _| !StepMetrics::TIMING_KEYS.contains(&key.as_str()));
        }
        metrics
    }

    /// The trained weights as they lie in their files, by name.
    pub fn final_weights(&self) -> BTreeMap<String, Vec<u8>> {
        weights(&self.run_dir.join("final"))
    }
}

/// Objects, one a line.
pub fn lines(text: &str) -> Vec<Line> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A number of a line.
pub fn number(line: &Line, key: &str) -> f64 {
    line.get(key).and_then(Value::as_f64).unwrap_or_else(|| panic!("{key} is not in {line:?}"))
}

/// Fails unless two curves are equal within a relative tolerance.
pub fn assert_close(left: &[f64], right: &[f64], tolerance: f64, what: &str) {
    assert_eq!(left.len(), right.len(), "{what}");
    for (idx, (a, b)) in left.iter().zip(right).enumerate() {
        let error = (a - b).abs() / a.abs().max(b.abs()).max(f64::MIN_POSITIVE);
        assert!(error <= tolerance, "{what} of step {}: {a} and {b} differ by {error:e}", idx + 1);
    }
}
