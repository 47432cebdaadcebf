//! Small inputs, checked by eye.

use std::os::unix::process::ExitStatusExt;

use super::*;

#[test]
fn last_words_are_the_error_or_the_last_line() {
    let check = |text: &str, expected: &str| assert_eq!(last_words(text), expected);
    check("loading\nerror: no such model\nhint: look\n", "no such model");
    check("loading\nout of memory\n\n", "out of memory");
    check("terminate called\n2026-11-23T16:42:23Z  INFO step 5 is done\n", "terminate called");
    check("", "it said nothing");
}

#[test]
fn the_template_is_well_formed() {
    assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
}

#[test]
fn a_worker_that_a_signal_ended_is_lost() {
    let check = |raw: i32, expected: ExitCode| {
        assert_eq!(exit_code(ExitStatus::from_raw(raw)), expected, "{raw}");
    };
    check(9, ExitCode::PeerLost);
    check(0, ExitCode::Complete);
    check(65 << 8, ExitCode::Corrupt);
    check(1 << 8, ExitCode::Internal);
}

#[test]
fn a_process_that_was_killed_had_no_time_for_words() {
    let said = "step 5 is done\nerror: cut short\n";
    let killed = ExitStatus::from_raw(9);
    assert_eq!(reason(killed, said), "it was killed, by someone or for want of memory");
    assert_eq!(reason(ExitStatus::from_raw(65 << 8), said), "cut short");
}
