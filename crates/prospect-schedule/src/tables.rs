//! Tests as tables: commands above a line of four dashes, answers below it.
//! With PROSPECT_REWRITE_TESTDATA set, the answers in the files are written
//! anew; then read what changed.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Runs every block of a table, a file below `src`, and compares the answers.
pub(crate) fn check(table: &str, mut run: impl FnMut(&str) -> Vec<String>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(table);
    let expected = fs::read_to_string(&path).unwrap();
    let mut answered = String::new();
    for block in expected.trim_end().split("\n\n") {
        let commands = block.split("\n----").next().unwrap();
        let is_remark = commands.lines().all(|line| line.starts_with('#'));
        writeln!(answered, "{commands}{}", if is_remark { "" } else { "\n----" }).unwrap();
        for line in commands.lines().filter(|line| !line.starts_with('#')) {
            for answer in run(line) {
                writeln!(answered, "{answer}").unwrap();
            }
        }
        answered.push('\n');
    }
    let answered = format!("{}\n", answered.trim_end());
    if std::env::var_os("PROSPECT_REWRITE_TESTDATA").is_some() {
        return fs::write(&path, &answered).unwrap();
    }
    for (idx, (expected, got)) in expected.lines().zip(answered.lines()).enumerate() {
        assert_eq!(got, expected, "{table}, line {}", idx + 1);
    }
    assert_eq!(answered.lines().count(), expected.lines().count(), "{table}, number of lines");
}
