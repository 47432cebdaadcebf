//! `prospect data check`.

use crate::harness::{call, feedback, model_dir, prospect, scratch, write};

const BAD: &str = "{\"prompt\":\"why\",\"completion\":\" no\",\"label\":\"maybe\"}\n";

#[test]
fn good_data_is_reported() {
    let dir = scratch();
    let (file, model) = (feedback(dir.path()), model_dir(dir.path()));
    let called = call(&mut prospect(&["data", "check", &file, "--model", &model]));
    called.check(0, &[]).printed(&["4", "desirable"]);
}

#[test]
fn bad_rows_are_named_and_fail_unless_they_may_be_skipped() {
    let dir = scratch();
    let good = std::fs::read_to_string(feedback(dir.path())).unwrap();
    let file = write(dir.path(), "mixed.jsonl", &(good + BAD));
    let args = ["data", "check", &file];
    call(&mut prospect(&args)).check(65, &[]).printed(&["mixed.jsonl:5", "label", "maybe"]);
    call(prospect(&args).arg("--skip-bad-rows")).check(0, &[]).printed(&["mixed.jsonl:5"]);
}

#[test]
fn the_report_is_one_object_for_programs() {
    let dir = scratch();
    let file = write(dir.path(), "bad.jsonl", BAD);
    let called = call(&mut prospect(&["data", "check", &file, "--json"]));
    let report: serde_json::Value = serde_json::from_str(&called.out).unwrap();
    let row = &report["bad_rows"][0];
    assert_eq!((row["line"].as_u64(), row["field"].as_str()), (Some(1), Some("label")));
    called.check(65, &[]);
}

#[test]
fn columns_can_have_other_names() {
    let dir = scratch();
    let row =
        |word: &str, good: bool| format!("{{\"q\":{word:?},\"a\":\"no\",\"label\":{good}}}\n");
    let file = write(dir.path(), "named.jsonl", &(row("why", true) + &row("how", false)));
    let renamed = ["--column", "prompt=q", "--column", "completion=a"];
    call(&mut prospect(&["data", "check", &file])).check(65, &[]);
    call(prospect(&["data", "check", &file]).args(renamed)).check(0, &[]);
    call(&mut prospect(&["data", "check", &file, "--column", "reply=a"]))
        .check(64, &["--column", "reply=a", "completion"]);
}

#[test]
fn a_missing_file_is_named() {
    call(&mut prospect(&["data", "check", "nowhere.jsonl"])).check(64, &["nowhere.jsonl"]);
}
