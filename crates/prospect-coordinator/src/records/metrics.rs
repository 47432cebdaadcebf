//! `metrics.jsonl`, one line a step, and `eval_metrics.jsonl`, one line an
//! evaluation.

use std::collections::BTreeMap;

use prospect_core::{Step, StepMetrics};
use prospect_proto::MetricPoint;
use serde::{Deserialize, Serialize};

use super::History;
use crate::CoordinatorError;
use crate::run_dir::RunDir;
use crate::storage::{JsonLines, keep_lines, read_lines};

/// One line of `eval_metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct EvalRecord {
    /// Step after which the evaluation was done.
    pub(crate) step: Step,
    /// Epochs completed.
    pub(crate) epoch: f64,
    /// Values whose keys begin with `eval_`.
    #[serde(flatten)]
    pub(crate) values: BTreeMap<String, f64>,
}

/// Both files, and the values in memory for readers.
#[derive(Debug)]
pub(crate) struct MetricsFiles {
    steps: JsonLines,
    evaluations: JsonLines,
    history: History,
}

/// The last step on record in a run directory, 0 for none.
///
/// # Errors
/// A file that is damaged or has a gap.
pub(crate) fn recorded_step(dir: &RunDir) -> Result<Step, CoordinatorError> {
    let path = dir.metrics();
    let lines: Vec<StepMetrics> = read_lines(&path)?;
    match (1..).zip(&lines).find(|(number, line)| line.step != Step(*number)) {
        None => Ok(Step(lines.len() as u64)),
        Some((number, line)) => Err(CoordinatorError::Damaged {
            path,
            problem: format!(
                "line {number} is of step {}; restore the file or choose another run directory",
                line.step
            ),
        }),
    }
}

impl MetricsFiles {
    /// Opens both files without the lines of steps after `step`.
    ///
    /// # Errors
    /// Files that are damaged or cannot be written.
    pub(crate) fn open(
        dir: &RunDir,
        step: Step,
        history: History,
    ) -> Result<Self, CoordinatorError> {
        let steps = keep_lines(&dir.metrics(), |metrics: &StepMetrics| metrics.step <= step)?;
        let evaluations =
            keep_lines(&dir.eval_metrics(), |record: &EvalRecord| record.step <= step)?;

        let mut records = history.write();
        records.steps = steps;
        records.evaluations = evaluations.into_iter().map(EvalRecord::into_point).collect();
        drop(records);
        Ok(Self {
            steps: JsonLines::open(&dir.metrics())?,
            evaluations: JsonLines::open(&dir.eval_metrics())?,
            history,
        })
    }

    /// Adds a step.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(crate) fn record_step(&mut self, metrics: StepMetrics) -> Result<(), CoordinatorError> {
        self.steps.append(&metrics)?;
        self.history.write().steps.push(metrics);
        Ok(())
    }

    /// Adds an evaluation.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(crate) fn record_evaluation(
        &mut self,
        metrics: &StepMetrics,
    ) -> Result<(), CoordinatorError> {
        let record = EvalRecord {
            step: metrics.step,
            epoch: metrics.epoch,
            values: metrics
                .values("eval_")
                .into_iter()
                .filter(|(key, _)| key != "eval_epoch")
                .collect(),
        };
        self.evaluations.append(&record)?;
        self.evaluations.sync()?;
        self.history.write().evaluations.push(record.into_point());
        Ok(())
    }

    /// Waits until all steps are on the disk.
    ///
    /// # Errors
    /// A disk that fails.
    pub(crate) fn sync(&mut self) -> Result<(), CoordinatorError> {
        self.steps.sync()
    }
}

#[cfg(test)]
impl MetricsFiles {
    /// Writes steps to where nothing fits any more.
    pub(crate) fn fill_disk(&mut self) {
        self.steps = JsonLines::open(std::path::Path::new("/dev/full")).expect("it is there");
        self.steps.hurry();
    }
}

impl EvalRecord {
    fn into_point(self) -> MetricPoint {
        let mut values = self.values;
        values.insert("epoch".to_owned(), self.epoch);
        MetricPoint { step: self.step, values }
    }
}
