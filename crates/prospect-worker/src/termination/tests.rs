use std::io::{PipeReader, Read as _, Write as _, pipe};

use super::say;

/// Says a line to a pipe of which `prepare` gives the end that is kept.
fn check(
    prepare: impl FnOnce(PipeReader, &mut std::io::PipeWriter) -> Option<PipeReader>,
) -> Vec<u8> {
    let (reader, mut writer) = pipe().unwrap();
    let kept = prepare(reader, &mut writer);
    say(writer, "error: made up".into());
    let mut found = Vec::new();
    if let Some(mut kept) = kept {
        kept.read_to_end(&mut found).unwrap();
    }
    found
}

#[test]
fn last_words_are_written_and_a_reader_that_is_gone_or_stuck_holds_up_nothing() {
    assert_eq!(check(|reader, _| Some(reader)), b"error: made up\n");
    check(|_, _| None);
    check(|reader, writer| {
        // The usual size of a pipe; nobody reads before the last words are said.
        writer.write_all(&[b'.'; 1 << 16]).unwrap();
        Some(reader)
    });
}
