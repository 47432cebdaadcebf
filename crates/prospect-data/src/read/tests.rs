//! Which files are found and how they are read; the rows are compared across
//! formats in the tests of the store.

use tempfile::TempDir;

use super::*;
use crate::testing::{gzip, write};

fn names(patterns: &[String]) -> Result<Vec<String>, String> {
    let sources = expand(patterns).map_err(|error| error.to_string())?;
    Ok(sources
        .iter()
        .map(|source| source.path.file_name().unwrap().to_string_lossy().into_owned())
        .collect())
}

fn check(content: &str, name: &str, wanted: &[(u64, &str)]) {
    let dir = TempDir::new().unwrap();
    let bytes = if name.ends_with(".gz") { gzip(content.as_bytes()) } else { content.into() };
    let sources = expand(&[write(dir.path(), name, bytes)]).unwrap();
    let mut rows = Vec::new();
    sources[0]
        .read(&[], &mut |batch| {
            rows.extend(batch.into_iter().map(|row| match row.content {
                RawContent::Bytes(bytes) => {
                    (row.line, String::from_utf8(bytes).unwrap().trim().to_owned())
                }
                RawContent::Object(object) => (row.line, Value::Object(object).to_string()),
                RawContent::Other(value) => (row.line, value.to_string()),
            }));
            Ok(())
        })
        .unwrap();
    let wanted: Vec<_> = wanted.iter().map(|(line, text)| (*line, (*text).to_owned())).collect();
    assert_eq!(rows, wanted, "{name}");
}

#[test]
fn lines_are_counted_with_the_empty_ones() {
    check(
        "\u{feff}{\"a\": 1}\r\n\n  \n{\"b\": 2}",
        "x.jsonl",
        &[(1, "{\"a\": 1}"), (4, "{\"b\": 2}")],
    );
    check("{}\n", "x.ndjson.gz", &[(1, "{}")]);
    check("{}\n", "x.gz", &[(1, "{}")]);
    check("", "x.jsonl", &[]);
}

#[test]
fn a_json_file_is_an_array_or_lines() {
    check("\n [{\"a\": 1},\n 7]", "x.json", &[(1, "{\"a\":1}"), (2, "7")]);
    check("{\"a\": 1}\n{\"b\": 2}\n", "x.json", &[(1, "{\"a\": 1}"), (2, "{\"b\": 2}")]);
}

#[test]
fn more_rows_than_a_batch_keep_their_order() {
    let count = BATCH_ROWS as u64 * 2 + 5;
    let content: String = (1..=count).map(|number| format!("{number}\n")).collect();
    let texts: Vec<String> = (1..=count).map(|number| number.to_string()).collect();
    let wanted: Vec<(u64, &str)> = (1..).zip(texts.iter().map(String::as_str)).collect();
    check(&content, "x.jsonl", &wanted);
}

#[test]
fn directories_and_globs_give_data_files_by_name() {
    let dir = TempDir::new().unwrap();
    for name in ["b.jsonl", "a.json.gz", "c.jsonl.zst", "notes.md", ".hidden.jsonl", "d.parquet"] {
        write(dir.path(), name, "");
    }
    let path = dir.path().to_str().unwrap().to_owned();
    assert_eq!(
        names(std::slice::from_ref(&path)).unwrap(),
        ["a.json.gz", "b.jsonl", "c.jsonl.zst", "d.parquet"]
    );
    assert_eq!(
        names(&[format!("{path}/*.jsonl*")]).unwrap(),
        [".hidden.jsonl", "b.jsonl", "c.jsonl.zst"]
    );
    assert_eq!(
        names(&[format!("{path}/d.parquet"), format!("{path}/b.jsonl")]).unwrap(),
        ["d.parquet", "b.jsonl"]
    );
}

#[test]
fn what_cannot_be_read_is_named() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for name in ["a.csv", "a.tar.gz", "a.parquet.gz", "plain"] {
        let file = write(dir.path(), name, "");
        let words = names(&[file]).unwrap_err();
        assert!(words.contains(name) && words.contains("expected .jsonl"), "{words}");
    }
    let words = names(&[path("missing.jsonl")]).unwrap_err();
    assert!(words.contains("there is no such file or directory"), "{words}");
    let words = names(&[path("*.jsonl")]).unwrap_err();
    assert!(words.contains("the pattern fits no file"), "{words}");
    let words = names(&[dir.path().to_str().unwrap().to_owned()]).unwrap_err();
    assert!(words.contains("the directory holds no .jsonl"), "{words}");
    let words = names(&["s3://bucket/x.jsonl".to_owned()]).unwrap_err();
    assert!(words.contains("copy the data to a disk"), "{words}");
}

#[test]
fn damaged_files_are_named_with_the_last_line() {
    let check = |name: &str, content: &[u8], wanted: &str| {
        let dir = TempDir::new().unwrap();
        let sources = expand(&[write(dir.path(), name, content)]).unwrap();
        let words = sources[0].read(&["a"], &mut |_| Ok(())).unwrap_err().to_string();
        assert!(words.contains(name) && words.contains(wanted), "{words}");
    };
    let long: String = (0..2000).map(|number| format!("{{\"a\": {}}}\n", number * 7919)).collect();
    let packed = gzip(long.as_bytes());
    check("x.jsonl.gz", &packed[..packed.len() / 2], "reading failed after line ");
    check("x.jsonl.gz", b"not gzip at all", "reading failed after line 0");
    check("x.jsonl.zst", b"not zstd at all", "reading failed after line 0");
    check("x.parquet", b"not parquet at all", "expected a Parquet file");
    check("x.json", b"[{\"a\": 1}", "expected a JSON array of objects");
}
