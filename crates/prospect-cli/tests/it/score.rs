//! `prospect score` around worker programs that are scripts.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{call, config, fake_worker, prospect, scratch, write};

/// The number of tokens as the value of a row, and a note of every row and every call.
const COUNTS: &str = r#"
[ "$1" = score ] || { echo '[{"name":"cpu"}]'; exit 0; }
echo "$*" >> "$LOG.calls"
while read -r row; do
  echo "$row" >> "$LOG.rows"
  echo "{\"log_prob\":-$(echo "$row" | tr -cd , | wc -c).5}"
done"#;

/// The same, but it dies without a word at its third row.
const DIES: &str = r#"
[ "$1" = score ] || { echo '[{"name":"cpu"}]'; exit 0; }
for row in 1 2; do read -r row; echo '{"log_prob":-1.0}'; done
sleep 0.2
kill -9 $$"#;

struct Place {
    dir: tempfile::TempDir,
    config: String,
}

impl Place {
    fn new() -> Self {
        let dir = scratch();
        let config = config(dir.path(), "run.toml");
        Self { dir, config }
    }

    /// Calls `prospect score` with a worker that is this script.
    fn score(&self, script: &str, more: &[&str]) -> crate::harness::Called {
        let worker = fake_worker(self.dir.path(), script);
        let run_dir = self.dir.path().join("run");
        let mut command = prospect(&["score", &self.config, "--run-dir"]);
        command.arg(run_dir).args(more).env("PROSPECT_WORKER", worker);
        call(command.env("LOG", self.dir.path().join("log")))
    }

    /// Lines that the scripts have noted since the last time.
    fn noted(&self, name: &str) -> Vec<String> {
        let path = self.dir.path().join(name);
        let text = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        text.lines().map(str::to_owned).collect()
    }
}

/// Files of values below a directory.
fn files(root: &Path) -> Vec<PathBuf> {
    let dirs = fs::read_dir(root).unwrap().map(|dir| dir.unwrap().path());
    dirs.flat_map(|dir| fs::read_dir(dir).unwrap()).map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn every_sequence_is_scored_once_by_many_workers() {
    let place = Place::new();
    // Four rows and their mismatched pairs.
    let values = "all 8 values of the reference model are known, ";
    let called = place.score(COUNTS, &["--workers", "2", "--set", "train.threads=3"]);
    called.check(0, &[]).printed(&[values, "8 of them computed"]);
    let calls = place.noted("log.calls");
    assert_eq!(calls.len(), 2, "{calls:?}");
    for words in ["--dtype float32", "--threads 3", "--microbatch-tokens 4096", "/model "] {
        assert!(calls.iter().all(|call| call.contains(words)), "{words:?} is not in {calls:?}");
    }
    let mut rows = place.noted("log.rows");
    assert!(rows[0].starts_with("{\"prompt_ids\":["), "{rows:?}");
    rows.sort();
    rows.dedup();
    assert_eq!(rows.len(), 8);
    assert_eq!(files(&place.dir.path().join("run/cache/reference")).len(), 1);

    let called = place.score(COUNTS, &[]);
    called.check(0, &["8 of 8 values are known already"]).printed(&[values, "0 of them computed"]);
    assert!(place.noted("log.rows").is_empty());
}

#[test]
fn what_was_computed_before_a_death_is_not_computed_again() {
    let place = Place::new();
    place.score(DIES, &[]).check(76, &["signal 9", "the same command goes on"]);
    let called = place.score(COUNTS, &[]);
    called.check(0, &["2 of 8 values are known already"]).printed(&["6 of them computed"]);
    assert_eq!(place.noted("log.rows").len(), 6);
}

#[test]
fn one_worker_that_fails_ends_the_others() {
    let place = Place::new();
    let script = r#"
[ "$1" = score ] || { echo '[{"name":"cpu"}]'; exit 0; }
mkdir "$LOG.first" 2>/dev/null && { echo 'error: no memory' >&2; exit 74; }
sleep 1
touch "$LOG.late""#;
    place.score(script, &["--workers", "2"]).check(74, &["error: no memory"]);
    // It holds the output for as long as it would have worked, and was killed meanwhile.
    assert!(!place.dir.path().join("log.late").exists());
    place.score(COUNTS, &[]).check(0, &[]).printed(&["all 8 values"]);
}

#[test]
fn another_run_of_the_same_reference_finds_the_values() {
    let place = Place::new();
    let values = format!("reference.cache_dir={:?}", place.dir.path().join("values"));
    place.score(COUNTS, &["--set", &values]).check(0, &[]).printed(&["8 of them computed"]);
    assert_eq!(files(&place.dir.path().join("values")).len(), 1);
    place.noted("log.rows");
    let other = ["--set", &values, "--run-dir", "other", "--set", "train.learning_rate=1e-3"];
    let worker = fake_worker(place.dir.path(), COUNTS);
    let mut command = prospect(&["score", &place.config]);
    command.current_dir(place.dir.path()).args(other).env("PROSPECT_WORKER", worker);
    call(&mut command).check(0, &[]).printed(&["0 of them computed"]);
    // In another type the values are others.
    let bf16 = ["--set", &values, "--set", "model.dtype=bfloat16"];
    place.score(COUNTS, &bf16).check(0, &[]).printed(&["8 of them computed"]);
    let calls = place.noted("log.calls");
    assert!(calls.last().unwrap().contains("--dtype bfloat16"), "{calls:?}");
}

#[test]
fn what_cannot_be_done_is_told_before_anything_is_computed() {
    let place = Place::new();
    let file = write(place.dir.path(), "file", "");
    let values = format!("reference.cache_dir={file:?}");
    place
        .score(COUNTS, &["--set", &values])
        .check(74, &["reference.cache_dir", "cannot be written"]);
    place.score(COUNTS, &["--set", "reference.cache=false"]).check(64, &["set it to true"]);
    let missing = "reference.path=\"/nowhere/reference\"";
    place.score(COUNTS, &["--set", missing]).check(64, &["reference.path", "/nowhere/reference"]);
    write(place.dir.path(), "run/reference_cache.bin", "");
    place.score(COUNTS, &[]).check(64, &["has begun", "choose a new directory"]);
    assert!(place.noted("log.rows").is_empty());
}
