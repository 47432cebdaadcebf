//! Every way to end.

use std::os::unix::process::ExitStatusExt;

use super::*;

/// `raw` is what wait(2) gives.
fn check(raw: i32, expected: Verdict) {
    let ended = Ended {
        name: "worker-0".into(),
        status: ExitStatus::from_raw(raw),
        message: String::new(),
        log: "worker-0.log".into(),
    };
    assert_eq!(ended.verdict(), expected, "{}", ended.ending());
}

#[test]
fn only_ends_that_another_process_may_not_repeat_bring_a_restart() {
    let exits = [
        (0, Verdict::Done),
        (75, Verdict::Left),
        (70, Verdict::Died),
        (76, Verdict::Died),
        (101, Verdict::Died),
        (64, Verdict::Lasting),
        (65, Verdict::Lasting),
        (74, Verdict::Lasting),
        (77, Verdict::Lasting),
        (93, Verdict::Lasting),
    ];
    for (code, verdict) in exits {
        check(code << 8, verdict);
    }
    for signal in [6, 9, 11, 15] {
        check(signal, Verdict::Died);
    }
}
