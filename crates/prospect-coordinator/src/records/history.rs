//! The records as readers of the status see them, in memory.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use prospect_core::{Step, StepMetrics};
use prospect_proto::{Event, MetricPoint};

/// Shared between the one writer and all readers; never held across a wait.
#[derive(Clone, Debug, Default)]
pub(crate) struct History(Arc<RwLock<Records>>);

/// What happened so far.
#[derive(Debug, Default)]
pub(crate) struct Records {
    /// One a step, ascending.
    pub(crate) steps: Vec<StepMetrics>,
    /// One an evaluation, ascending; keys begin with `eval_`.
    pub(crate) evaluations: Vec<MetricPoint>,
    /// What happened apart from the steps, with ascending numbers.
    pub(crate) events: Vec<Event>,
}

impl History {
    /// For reading.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Records> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the one writer.
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Records> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Metrics of the last step.
    pub(crate) fn last_step(&self) -> Option<StepMetrics> {
        self.read().steps.last().cloned()
    }

    /// Metrics of the last evaluation.
    pub(crate) fn last_evaluation(&self) -> Option<MetricPoint> {
        self.read().evaluations.last().cloned()
    }

    /// Points of the steps from `first` to `last` (0 for the newest), at most
    /// `limit`, and the first step of the next page. The writer waits for the copy at most,
    /// not for the points.
    pub(crate) fn page(
        &self,
        is_eval: bool,
        first: Step,
        last: Step,
        limit: usize,
    ) -> (Vec<MetricPoint>, Option<Step>) {
        let last = if last == Step(0) { Step(u64::MAX) } else { last };
        if is_eval {
            let records = self.read();
            let wanted = range(&records.evaluations, |point| point.step, first, last);
            let points = wanted.iter().take(limit).cloned().collect();
            return (points, wanted.get(limit).map(|point| point.step));
        }
        let (metrics, next): (Vec<StepMetrics>, _) = {
            let records = self.read();
            let wanted = range(&records.steps, |metrics| metrics.step, first, last);
            let metrics = wanted.iter().take(limit).cloned().collect();
            (metrics, wanted.get(limit).map(|metrics| metrics.step))
        };
        (metrics.iter().map(|metrics| MetricPoint::new(metrics, "")).collect(), next)
    }

    /// Events from number `first`, at most `limit`, and the number of the next.
    pub(crate) fn event_page(&self, first: u64, limit: usize) -> (Vec<Event>, Option<u64>) {
        let records = self.read();
        let wanted = range(&records.events, |event| event.sequence, first, u64::MAX);
        let events = wanted.iter().take(limit).cloned().collect();
        (events, wanted.get(limit).map(|event| event.sequence))
    }
}

/// The part of an ascending list whose keys lie between the bounds.
fn range<T, K: Ord>(items: &[T], key: impl Fn(&T) -> K, first: K, last: K) -> &[T] {
    let start = items.partition_point(|item| key(item) < first);
    let end = items.partition_point(|item| key(item) <= last);
    items.get(start..end).unwrap_or_default()
}
