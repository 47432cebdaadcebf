//! The values that runs share, on disk.

use std::fs;
use std::path::{Path, PathBuf};

use prospect_core::{Dtype, ExitCode, RowId, Sequence};

use super::*;

fn scorer(weights: &str) -> Scorer {
    Scorer::try_new(weights.to_owned(), Dtype::Float32).unwrap()
}

fn sequence(token_ids: &[u32], completion_start: u32) -> Sequence {
    Sequence {
        prompt_row: RowId(1),
        completion_row: RowId(2),
        token_ids: token_ids.to_vec(),
        completion_start,
        reference_log_prob: None,
    }
}

/// Writes one file of these values, for the sequences `[0, 1]`, `[0, 2]`, ….
fn write(root: &Path, scorer: &Scorer, values: &[f64]) -> PathBuf {
    let mut writer = PoolWriter::create(root, scorer.clone()).unwrap();
    for (value, token_id) in values.iter().zip(1..) {
        writer.add([(scorer.key(&sequence(&[0, token_id], 1)), *value)]).unwrap();
    }
    writer.sync().unwrap();
    writer.path().to_owned()
}

/// The values that are known for those sequences.
fn known(root: &Path, scorer: &Scorer) -> Result<Vec<f64>, CoordinatorError> {
    let pool = Pool::read(scorer, &[root.to_owned(), root.join("not there")])?;
    let value = |token_id| pool.get(&scorer.key(&sequence(&[0, token_id], 1)));
    Ok((1..9).filter_map(value).collect())
}

/// What is known of a file of three values after its bytes were changed.
#[track_caller]
fn check(damage: impl FnOnce(&mut Vec<u8>), expected: Result<&[f64], &str>) {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), &scorer("a"), &[-1.0, -2.0, -3.0]);
    let mut bytes = fs::read(&path).unwrap();
    damage(&mut bytes);
    fs::write(&path, bytes).unwrap();
    match (known(dir.path(), &scorer("a")), expected) {
        (Ok(found), Ok(expected)) => assert_eq!(found, expected),
        (Err(error), Err(expected)) => {
            assert_eq!(error.exit_code(), ExitCode::Corrupt);
            let message = error.to_string();
            for words in [expected, path.to_str().unwrap(), "move the file away"] {
                assert!(message.contains(words), "{words:?} is not in {message:?}");
            }
        }
        (found, expected) => panic!("{found:?}, expected {expected:?}"),
    }
}

#[test]
fn a_key_follows_from_the_scorer_the_tokens_and_where_the_completion_begins() {
    let base = scorer("a").key(&sequence(&[1, 2, 3], 1));
    let same = Sequence { prompt_row: RowId(7), ..sequence(&[1, 2, 3], 1) };
    assert_eq!(scorer("a").key(&same), base, "rows are no part of it");
    let bf16 = Scorer::try_new("a".to_owned(), Dtype::Bfloat16).unwrap();
    for (scorer, sequence) in [
        (scorer("b"), sequence(&[1, 2, 3], 1)),
        (bf16, sequence(&[1, 2, 3], 1)),
        (scorer("a"), sequence(&[1, 2, 3], 2)),
        (scorer("a"), sequence(&[1, 2, 4], 1)),
        (scorer("a"), sequence(&[1, 2], 1)),
    ] {
        assert_ne!(scorer.key(&sequence), base, "{scorer:?} {sequence:?}");
    }
    assert_eq!(scorer("a").directory_name().len(), 32);
    assert_ne!(scorer("a").directory_name(), scorer("b").directory_name());
}

#[test]
fn a_type_that_is_left_to_the_device_is_refused() {
    assert!(Scorer::try_new("a".to_owned(), Dtype::Auto).is_none());
    let error = Scorer::required("a".to_owned(), Dtype::Auto).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Usage);
    assert!(error.to_string().contains("set model.dtype to \"float32\""), "{error}");
}

#[test]
fn a_torn_end_is_passed_over_and_other_damage_is_refused() {
    check(|_| {}, Ok(&[-1.0, -2.0, -3.0]));
    check(|bytes| bytes.truncate(bytes.len() - 1), Ok(&[-1.0, -2.0]));
    check(|bytes| *bytes.last_mut().unwrap() ^= 1, Ok(&[-1.0, -2.0]));
    // Blocks that a power failure has left empty.
    check(|bytes| bytes.extend([0; 200]), Ok(&[-1.0, -2.0, -3.0]));
    // A writer that died at its first line.
    check(|bytes| bytes.truncate(20), Ok(&[]));
    check(|bytes| bytes.clear(), Ok(&[]));
    check(
        |bytes| {
            let second = bytes.len() - 2 * 44;
            bytes[second] ^= 1;
        },
        Err("value 1 has a wrong checksum"),
    );
    check(|bytes| bytes[0] ^= 1, Err("does not begin as a file of reference values"));
}

#[test]
fn values_of_other_weights_under_this_name_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &scorer("a"), &[-1.0]);
    let (own, other) = (scorer("a").directory_name(), scorer("b").directory_name());
    assert!(known(dir.path(), &scorer("b")).unwrap().is_empty());
    fs::rename(dir.path().join(own), dir.path().join(other)).unwrap();
    let error = known(dir.path(), &scorer("b")).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Corrupt);
    let message = error.to_string();
    for words in ["weights: \"a\"", "weights: \"b\"", "move the file away"] {
        assert!(message.contains(words), "{words:?} is not in {message:?}");
    }
}

#[test]
fn many_write_at_once_and_the_first_value_counts() {
    let dir = tempfile::tempdir().unwrap();
    let scorer = scorer("a");
    let writers: Vec<PathBuf> = std::thread::scope(|scope| {
        let write = |value: f64| {
            let (dir, scorer) = (&dir, &scorer);
            scope.spawn(move || write(dir.path(), scorer, &[value; 3]))
        };
        let threads: Vec<_> = (1..6).map(|value| write(-f64::from(value))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut names = writers.clone();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 5, "each has a file of its own");
    let first = writers.iter().position(|path| *path == names[0]).unwrap();
    assert_eq!(known(dir.path(), &scorer).unwrap(), [-(first as f64 + 1.0); 3]);
}

#[test]
fn a_writer_leaves_nothing_where_it_had_nothing_to_add() {
    let dir = tempfile::tempdir().unwrap();
    let writer = PoolWriter::create(dir.path(), scorer("a")).unwrap();
    let path = writer.path().to_owned();
    assert!(path.is_file());
    // Whoever reads meanwhile finds no value.
    assert!(known(dir.path(), &scorer("a")).unwrap().is_empty());
    drop(writer);
    assert!(!path.exists());
}

#[test]
fn what_is_not_finite_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &scorer("a"), &[-1.0, f64::NAN, -3.0]);
    assert_eq!(known(dir.path(), &scorer("a")).unwrap(), [-1.0, -3.0]);
}

#[test]
fn a_run_begins_with_the_values_that_its_file_holds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache.bin");
    let rows =
        |row| SequenceRows { domain: Domain::Train, prompt: RowId(row), completion: RowId(row) };
    ReferenceCache::begin(&path, &[(rows(1), -1.0)]).unwrap();
    let mut cache = ReferenceCache::open(&path, Step(5)).unwrap();
    let computed =
        ReferenceValue { prompt_row: RowId(2), completion_row: RowId(2), log_prob: -2.0 };
    cache.add(Domain::Train, &[computed], Step(3)).unwrap();
    drop(cache);
    // Back to the start: what it computed is gone, what it began with is not.
    for (step, known) in [(3, [Some(-1.0), Some(-2.0)]), (0, [Some(-1.0), None])] {
        let cache = ReferenceCache::open(&path, Step(step)).unwrap();
        let get = |row| cache.get(Domain::Train, RowId(row), RowId(row), Step(9));
        assert_eq!([get(1), get(2)], known);
        assert_eq!([cache.knew(rows(1)), cache.knew(rows(2))], [true, false]);
    }
}
