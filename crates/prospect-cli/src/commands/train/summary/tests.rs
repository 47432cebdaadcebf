//! Small inputs, checked by eye.

use prospect_core::{ExitCode, Step};
use prospect_proto::Phase;

use super::*;

#[test]
fn only_what_is_there_is_named() {
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
    let text = render(&outcome, dir.path(), Duration::from_secs(65));
    let text = console::strip_ansi_codes(&text);
    assert!(text.starts_with("complete: 2 steps, 1m 05s\n"), "{text}");
    assert!(text.contains("last step   loss 0.2500  rewards/margins 1.0000\n"), "{text}");
    assert!(text.contains("/final\n") && !text.contains("report"), "{text}");
}
