use std::fs;

use prospect_core::{ExitCode, ReferenceValue, Resume, RowId, Step, StepMetrics};
use tempfile::TempDir;

use super::*;
use crate::run_dir::RunDir;

fn value(prompt: u64, completion: u64, log_prob: f64) -> ReferenceValue {
    ReferenceValue { prompt_row: RowId(prompt), completion_row: RowId(completion), log_prob }
}

fn cache_of_steps(dir: &TempDir, num_steps: u64) -> ReferenceCache {
    let path = dir.path().join("cache.bin");
    let mut cache = ReferenceCache::open(&path, Step(0)).unwrap();
    for step in 1..=num_steps {
        cache.add(Domain::Train, &[value(step, step, -(step as f64))], Step(step)).unwrap();
    }
    cache.sync().unwrap();
    cache
}

/// What remains of a cache of three steps after its bytes were changed.
#[track_caller]
fn check_cache(damage: impl FnOnce(&mut Vec<u8>), expected: Result<usize, &str>) {
    let dir = tempfile::tempdir().unwrap();
    drop(cache_of_steps(&dir, 3));
    let path = dir.path().join("cache.bin");
    let mut bytes = fs::read(&path).unwrap();
    damage(&mut bytes);
    fs::write(&path, bytes).unwrap();
    match (ReferenceCache::open(&path, Step(9)), expected) {
        (Ok(cache), Ok(len)) => assert_eq!(cache.len(), len),
        (Err(error), Err(expected)) => {
            assert_eq!(error.exit_code(), ExitCode::Corrupt);
            assert!(error.to_string().contains(expected), "{error}");
        }
        (found, _) => panic!("{:?}, expected {expected:?}", found.map(|cache| cache.len())),
    }
}

#[test]
fn a_value_is_used_from_the_step_on_that_the_rule_says() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache_of_steps(&dir, 3);
    let get = |latest| cache.get(Domain::Train, RowId(2), RowId(2), Step(latest));
    assert_eq!((get(1), get(2), get(3)), (None, Some(-2.0), Some(-2.0)));
    assert_eq!(cache.get(Domain::Eval, RowId(2), RowId(2), Step(9)), None);
    assert_eq!(cache.get(Domain::Train, RowId(2), RowId(1), Step(9)), None);
}

#[test]
fn the_first_value_stays_also_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let mut cache = cache_of_steps(&dir, 2);
    cache.add(Domain::Train, &[value(1, 1, -99.0)], Step(2)).unwrap();
    drop(cache);
    let path = dir.path().join("cache.bin");
    let reopened = ReferenceCache::open(&path, Step(2)).unwrap();
    assert_eq!(reopened.get(Domain::Train, RowId(1), RowId(1), Step(1)), Some(-1.0));
    let earlier = ReferenceCache::open(&path, Step(1)).unwrap();
    assert_eq!(earlier.len(), 1);
    assert_eq!(ReferenceCache::open(&path, Step(9)).unwrap().len(), 1, "later values came back");
}

#[test]
fn a_torn_end_is_cut_and_other_damage_is_named() {
    check_cache(|_| {}, Ok(3));
    check_cache(|bytes| bytes.truncate(bytes.len() - 1), Ok(2));
    check_cache(|bytes| *bytes.last_mut().unwrap() ^= 1, Ok(2));
    check_cache(|bytes| bytes[10] ^= 1, Err("record 0"));
    check_cache(|bytes| bytes[0] ^= 1, Err("does not begin"));
}

#[test]
fn metrics_are_cut_back_to_the_step_that_a_run_goes_on_from() {
    let root = tempfile::tempdir().unwrap();
    let dir = RunDir::open(root.path(), Resume::Auto).unwrap();
    let mut files = MetricsFiles::open(&dir, Step(0), History::default()).unwrap();
    let metrics = |step| StepMetrics { step: Step(step), loss: step as f64, ..Default::default() };
    for step in 1..=4 {
        files.record_step(metrics(step)).unwrap();
        if step % 2 == 0 {
            files.record_evaluation(&metrics(step)).unwrap();
        }
    }
    files.sync().unwrap();
    assert_eq!(recorded_step(&dir).unwrap(), Step(4));

    let history = History::default();
    drop(MetricsFiles::open(&dir, Step(2), history.clone()).unwrap());
    assert_eq!(recorded_step(&dir).unwrap(), Step(2));
    assert_eq!(history.last_step().unwrap().loss, 2.0);
    let evaluation = history.last_evaluation().unwrap();
    assert_eq!((evaluation.step, evaluation.values["eval_loss"]), (Step(2), 2.0));
    let line = fs::read_to_string(dir.eval_metrics()).unwrap();
    assert!(line.starts_with(r#"{"step":2,"epoch":0.0,"eval_"#) && line.lines().count() == 1);
}

#[test]
fn a_gap_in_the_metrics_is_damage() {
    let root = tempfile::tempdir().unwrap();
    let dir = RunDir::open(root.path(), Resume::Auto).unwrap();
    let mut files = MetricsFiles::open(&dir, Step(0), History::default()).unwrap();
    files.record_step(StepMetrics { step: Step(2), ..Default::default() }).unwrap();
    let error = recorded_step(&dir).unwrap_err();
    assert!(error.to_string().contains("line 1 is of step 2"), "{error}");
}

#[test]
fn the_journal_numbers_events_without_gaps_over_restarts() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("journal.jsonl");
    let (mut journal, past) = Journal::open(&path, History::default()).unwrap();
    assert_eq!((past.generation.0, past.completed), (1, None));
    journal.record("run_started", Step(0), "first").unwrap();
    journal.record("checkpoint_saved", Step(2), "second").unwrap();
    journal.sync().unwrap();
    drop(journal);

    let torn = fs::read_to_string(&path).unwrap() + r#"{"sequence":3,"ti"#;
    fs::write(&path, torn).unwrap();
    let history = History::default();
    let (mut journal, past) = Journal::open(&path, history.clone()).unwrap();
    assert_eq!((past.generation.0, past.completed), (2, None));
    journal.record("run_started", Step(2), "third").unwrap();
    journal.record("run_complete", Step(4), "fourth").unwrap();
    let records = history.read();
    let numbers: Vec<u64> = records.events.iter().map(|event| event.sequence).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    assert_eq!(records.event_page(2, 2).1, Some(4));
    let (_, past) = Journal::open(&path, History::default()).unwrap();
    assert_eq!((past.generation.0, past.completed), (3, Some(Step(4))));
    let lines: Vec<String> =
        fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect();
    fs::write(&path, [&lines[0], "\n", &lines[2], "\n"].concat()).unwrap();
    let error = Journal::open(&path, History::default()).unwrap_err();
    assert!(error.to_string().contains("event 3 stands where event 2 belongs"), "{error}");
}

#[test]
fn pages_hold_at_most_what_was_asked_for() {
    let history = History::default();
    history.write().steps =
        (1..=5).map(|step| StepMetrics { step: Step(step), ..Default::default() }).collect();
    let page = |first, last, limit| {
        let (points, next) = history.read().page(false, Step(first), Step(last), limit);
        (points.iter().map(|point| point.step.0).collect::<Vec<_>>(), next.map(|step| step.0))
    };
    assert_eq!(page(0, 0, 3), (vec![1, 2, 3], Some(4)));
    assert_eq!(page(4, 0, 3), (vec![4, 5], None));
    assert_eq!(page(2, 3, 9), (vec![2, 3], None));
    assert_eq!(page(4, 2, 9), (vec![], None));
}
