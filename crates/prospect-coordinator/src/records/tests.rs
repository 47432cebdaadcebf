use std::fs;

use prospect_core::{ExitCode, Generation, ReferenceValue, Resume, RowId, Step, StepMetrics};
use prospect_proto::Phase;
use prospect_schedule::machine::{LedgerEntry, Record, Replay};
use serde_json::json;
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

/// A record of a step of the first generation.
fn step(step: u64) -> Option<Record> {
    let (attempt, generation) = (1, Generation(1));
    let entry = LedgerEntry { step: Step(step), attempt, generation, ..LedgerEntry::default() };
    Some(Record::Step(entry))
}

#[test]
fn the_journal_numbers_events_without_gaps_over_restarts() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("journal.jsonl");
    let (mut journal, past) = Journal::open(&path, History::default()).unwrap();
    assert_eq!(past.replay, Replay::default());
    journal.record("run_started", Step(0), "first", None).unwrap();
    let regroup = Record::Regroup { generation: Generation(1), committed: Step(0) };
    journal.record("regroup", Step(0), "second", Some(regroup)).unwrap();
    journal.record(STEP, Step(1), "", step(1)).unwrap();
    journal.sync().unwrap();
    drop(journal);

    let torn = fs::read_to_string(&path).unwrap() + r#"{"sequence":4,"ti"#;
    fs::write(&path, torn).unwrap();
    let history = History::default();
    let (mut journal, past) = Journal::open(&path, history.clone()).unwrap();
    assert_eq!((past.replay.generation, past.replay.committed), (Generation(1), Step(1)));
    journal.record("run_started", Step(1), "fourth", None).unwrap();
    let ended = Record::Ended { phase: Phase::Stopped };
    journal.record("phase", Step(1), "fifth", Some(ended)).unwrap();
    let numbers: Vec<u64> = history.read().events.iter().map(|event| event.sequence).collect();
    assert_eq!(numbers, [1, 2, 4, 5], "steps are no events for readers");
    assert_eq!(history.event_page(2, 2).1, Some(5));
    let (_, past) = Journal::open(&path, History::default()).unwrap();
    assert_eq!(past.replay.ended, Some(Phase::Stopped));

    let lines: Vec<String> =
        fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect();
    check_damaged(&path, &[&lines[0], &lines[2]], "event 3 stands where event 2 belongs");
    let skipped = lines[2].replace(r#""step":1,"epoch""#, r#""step":2,"epoch""#);
    check_damaged(&path, &[&lines[0], &lines[1], &skipped], "line 3: step 2");
}

#[track_caller]
fn check_damaged(path: &std::path::Path, lines: &[&str], expected: &str) {
    fs::write(path, lines.join("\n") + "\n").unwrap();
    let error = Journal::open(path, History::default()).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Corrupt);
    assert!(error.to_string().contains(expected), "{error}");
}

#[test]
fn a_run_goes_on_while_its_coordinator_is_away_and_not_after_its_end() {
    let path = tempfile::tempdir().unwrap();
    let path = path.path().join("journal.jsonl");
    let line = |sequence, second, data| {
        let time = format!("2026-01-31T12:00:{second:02}Z");
        let line = json!({"sequence": sequence, "time": time, "kind": "x", "step": 0,
            "message": "", "data": data});
        format!("{line}\n")
    };
    let regroup =
        |generation| json!({"record": "regroup", "generation": generation, "committed": 0});
    let formed = |generation| json!({"record": "formed", "generation": generation});
    let lines = [
        line(1, 0, regroup(1)),
        line(2, 10, formed(1)),
        line(3, 15, json!({"record": "ended", "phase": "stopped"})),
        line(4, 30, regroup(2)),
        line(5, 40, formed(2)),
    ];
    let until = |num_lines: usize| {
        fs::write(&path, lines[..num_lines].concat()).unwrap();
        let (_, past) = Journal::open(&path, History::default()).unwrap();
        let now: prost_types::Timestamp = "2026-01-31T12:00:50Z".parse().unwrap();
        let (time, is_open) = past.course.until(now.try_into().unwrap());
        (time.as_secs(), is_open)
    };
    assert_eq!(
        [until(1), until(2), until(3), until(5)],
        [(0, false), (40, true), (5, false), (15, true)]
    );
}

#[test]
fn pages_hold_at_most_what_was_asked_for() {
    let history = History::default();
    history.write().steps =
        (1..=5).map(|step| StepMetrics { step: Step(step), ..Default::default() }).collect();
    let page = |first, last, limit| {
        let (points, next) = history.page(false, Step(first), Step(last), limit);
        (points.iter().map(|point| point.step.0).collect::<Vec<_>>(), next.map(|step| step.0))
    };
    assert_eq!(page(0, 0, 3), (vec![1, 2, 3], Some(4)));
    assert_eq!(page(4, 0, 3), (vec![4, 5], None));
    assert_eq!(page(2, 3, 9), (vec![2, 3], None));
    assert_eq!(page(4, 2, 9), (vec![], None));
}
