mod broken;
mod broken_course;
mod broken_records;
mod made_up;
mod proof;

use std::path::Path;

use prospect_core::ExitCode;
use serde_json::{Value, json};

use super::judge::Judgement;
use super::run::Run;
use crate::args::VerifyArgs;
use made_up::{History, edit, set};

fn judge(dir: &Path, against: Option<&Path>) -> Judgement {
    let run = Run::read(dir).unwrap();
    let other = against.map(|dir| Run::read(dir).unwrap());
    Judgement::new(&run, other.as_ref()).unwrap()
}

fn lines(judgement: &Judgement) -> Vec<String> {
    judgement.laws.iter().map(ToString::to_string).collect()
}

/// Expects that no law is broken and that these words are said.
#[track_caller]
fn check_holds(run: &History, against: Option<&History>, expected: &[&str]) {
    let (run, against) = (run.write(), against.map(History::write));
    let judgement = judge(run.path(), against.as_ref().map(|dir| dir.path()));
    let said = judgement.to_string();
    assert!(judgement.holds(), "{said}");
    let missing: Vec<_> = expected.iter().filter(|words| !said.contains(**words)).collect();
    assert!(missing.is_empty(), "{missing:?} not in\n{said}");
}

/// A run of 9 steps by 3 workers, with checkpoints, without any loss.
fn uninterrupted() -> History {
    let mut run = History::new();
    run.world(3);
    run.steps(4);
    run.checkpoint();
    run.steps(4);
    run.checkpoint();
    run.steps(1);
    run.end("complete");
    run
}

/// The same with a lost worker, a rollback, and a coordinator that went away and came back.
fn faulted() -> History {
    let mut run = History::new();
    run.world(3);
    run.steps(4);
    run.checkpoint();
    run.steps(1);
    run.regroup(3);
    run.steps(2);
    run.start();
    run.steps(1);
    run.checkpoint();
    run.reject(8);
    run.roll_back(4, 3);
    run.steps(4);
    run.checkpoint();
    run.start();
    run.world_from_checkpoint(3);
    run.steps(1);
    run.end("complete");
    run
}

#[test]
fn an_uninterrupted_run_holds() {
    check_holds(
        &uninterrupted(),
        None,
        &[
            "complete at step 9, attempt 1",
            "N1 trajectory  not judged: no step was done twice",
            "N2 data        ok: 3 whole epochs of 10 rows, each read once",
            "N3 durability  ok: the checkpoint of step 8 is intact; no return to a checkpoint",
            "N5 one writer  ok: 1 generation, 9 steps each committed by the one that was formed",
            "N7 records     ok: 16 events without a gap, 9 steps of metrics.jsonl as on the ledger",
        ],
    );
}

#[test]
fn a_run_with_losses_equals_the_uninterrupted_one() {
    check_holds(
        &faulted(),
        Some(&uninterrupted()),
        &[
            "complete at step 9, attempt 2",
            "N1 trajectory  ok: 9 steps equal bit for bit; 2 checkpoints equal; final weights equal",
            "each read once; 4 steps done again with the same rows and pairs",
            "1 rejected with the reason; 2 returns to checkpoints, none behind what was durable",
            "N4 elasticity  not judged: equal numbers of workers",
            "4 generations, 13 steps",
        ],
    );
    check_holds(&faulted(), None, &["4 steps done again, the same bit for bit"]);
}

#[test]
fn a_run_that_has_not_ended_is_judged_as_far_as_it_goes() {
    let mut run = History::new();
    run.world(3);
    run.steps(5);
    let expected = [
        "it has not ended and is judged as far as it goes",
        "ok: 5 steps equal bit for bit; no checkpoint to compare; not both runs are complete",
        "1 whole epoch and a part of 10 rows",
        "no checkpoint is on record",
    ];
    check_holds(&run, Some(&uninterrupted()), &expected);
    let begun = ["0 steps of metrics.jsonl", "no step is on record", "at step 0, attempt 0"];
    check_holds(&History::new(), None, &begun);
}

#[test]
fn what_a_lost_coordinator_leaves_half_done_is_no_break() {
    let mut run = History::new();
    run.world(3);
    run.steps(5);
    let dir = run.write();
    edit(&dir.path().join("journal.jsonl"), |lines| {
        lines.pop();
    });
    let journal = dir.path().join("journal.jsonl");
    let text = std::fs::read_to_string(&journal).unwrap();
    std::fs::write(&journal, text + "{\"sequence\":").unwrap();
    let judgement = judge(dir.path(), None);
    assert!(judgement.holds(), "{judgement}");
    let said = judgement.to_string();
    assert!(said.contains("1 step of metrics.jsonl not on the ledger yet"), "{said}");
    assert!(said.contains("a last line is cut off"), "{said}");
}

#[test]
fn a_run_that_was_stopped_and_made_longer_holds() {
    let mut run = uninterrupted();
    run.start();
    run.world(3);
    run.steps(3);
    run.end("complete");
    check_holds(&run, None, &["complete at step 12", "4 whole epochs", "2 generations"]);
}

/// A run whose number of workers changes, with losses that differ a little from then on.
fn elastic(skew: f64) -> History {
    let mut run = History::new().set("coordinator.workers", Value::Null);
    run.world(3);
    run.steps(4);
    run.checkpoint();
    run.regroup(2);
    run.skew = skew;
    run.steps(4);
    run.checkpoint();
    run.regroup(3);
    run.steps(1);
    run.end("complete");
    run
}

#[test]
fn with_the_fast_reduction_other_numbers_of_workers_give_nearly_the_same() {
    check_holds(
        &elastic(1.0 + 3e-7),
        Some(&uninterrupted()),
        &[
            "N1 trajectory  ok: 4 steps before step 5 equal bit for bit; 1 checkpoint equal",
            "N4 elasticity  ok: from step 5 on other numbers of workers: rows and pairs of 5 steps equal, losses within 3.0e-7 (bound 1e-5 for 50 steps)",
        ],
    );
    let mut alone = History::new();
    alone.world(1);
    alone.steps(9);
    alone.end("complete");
    let expected = ["N1 trajectory  not judged: other numbers of workers have done all steps"];
    check_holds(&alone, Some(&uninterrupted()), &expected);
}

#[test]
fn with_the_canonical_reduction_they_give_the_same() {
    let canonical = |run: History| run.set("train.reduction", json!("canonical"));
    check_holds(
        &canonical(elastic(1.0)),
        Some(&canonical(uninterrupted())),
        &[
            "N1 trajectory  ok: 9 steps equal bit for bit; 2 checkpoints equal; final weights equal",
            "N4 elasticity  ok: 4 steps done by other numbers of workers, equal bit for bit (canonical)",
        ],
    );
}

#[test]
fn the_exit_code_says_whether_all_laws_hold() {
    let (good, bad) = (uninterrupted().write(), uninterrupted().write());
    edit(&bad.path().join("metrics.jsonl"), |lines| {
        lines.pop();
    });
    let exit = |dir: &Path, against: Option<&Path>, json| {
        super::run(VerifyArgs {
            run_dir: dir.to_owned(),
            against: against.map(Path::to_owned),
            json,
        })
    };
    assert_eq!(exit(good.path(), None, false).unwrap(), ExitCode::Complete);
    assert_eq!(exit(good.path(), Some(good.path()), true).unwrap(), ExitCode::Complete);
    assert_eq!(exit(bad.path(), None, false).unwrap(), ExitCode::Corrupt);
    // The other run has to be sound, too, to say anything.
    assert_eq!(exit(good.path(), Some(bad.path()), false).unwrap(), ExitCode::Corrupt);
    let empty = tempfile::tempdir().unwrap();
    for result in [exit(empty.path(), None, false), exit(good.path(), Some(empty.path()), false)] {
        assert_eq!(result.unwrap_err().exit_code(), ExitCode::Usage);
    }
}

#[test]
fn programs_read_the_same_as_people() {
    let (good, bad) = (uninterrupted().write(), uninterrupted().write());
    edit(&bad.path().join("metrics.jsonl"), |lines| set(&mut lines[4], "loss", 0.5));
    let judgement = judge(bad.path(), Some(good.path()));
    let value: Value = serde_json::from_str(&judgement.to_json()).unwrap();
    assert_eq!(value["holds"], json!(false));
    assert_eq!(value["run"]["state"], json!("complete"));
    assert_eq!(value["against"]["step"], json!(9));
    let laws: Vec<_> = value["laws"].as_array().unwrap().iter().collect();
    let names: Vec<_> = laws.iter().map(|law| law["law"].as_str().unwrap()).collect();
    assert_eq!(names, ["N1", "N2", "N3", "N4", "N5", "N7"]);
    let verdicts: Vec<_> = laws.iter().map(|law| law["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["ok", "ok", "ok", "not_judged", "ok", "broken"]);
    let expected = json!({
        "file": "metrics.jsonl",
        "line": 5,
        "step": 5,
        "field": "loss",
        "found": "0.5 (3fe0000000000000)",
        "expected": "0.19607843137254904 (3fc919191919191a), as line 10 of journal.jsonl says",
    });
    assert_eq!(laws[5]["difference"], expected);
}
