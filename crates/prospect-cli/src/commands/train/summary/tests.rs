//! Small inputs, checked by eye.

use prospect_core::{ExitCode, Phase, Step};

use super::*;

/// The summary of a run of two steps in a directory with some of its files.
fn check(recovery: &str, expected: &[&str], absent: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("final")).unwrap();
    let lines = "{\"step\":1,\"loss\":0.5}\n{\"step\":2,\"loss\":0.25,\"rewards/margins\":1}\n";
    std::fs::write(dir.path().join("metrics.jsonl"), lines).unwrap();
    let outcome = RunOutcome {
        phase: Phase::Complete,
        exit: ExitCode::Complete,
        message: String::new(),
        step: Step(2),
        final_dir: None,
    };
    let summary = Summary { recovery: recovery.into() };
    let text = summary.render(&outcome, dir.path(), Duration::from_secs(65));
    let text = console::strip_ansi_codes(&text);
    for part in expected {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
    for part in absent {
        assert!(!text.contains(part), "{part:?} is in:\n{text}");
    }
}

#[test]
fn only_what_is_there_is_named() {
    let metrics = "last step   loss 0.2500  rewards/margins 1.0000\n";
    check("", &["complete: 2 steps, 1m 05s\n", metrics, "/final\n"], &["report", "recovery"]);
}

#[test]
fn what_was_survived_has_a_line() {
    check("2 losses, 1 restart", &["  recovery    2 losses, 1 restart\n"], &[]);
}
