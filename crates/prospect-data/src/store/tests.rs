//! A store is the same whatever its rows lay in, opens again as it was built,
//! and is never believed when damaged.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, ListArray, RecordBatch, StringArray, StructArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field};
use parquet::arrow::ArrowWriter;
use proptest::prelude::*;
use prospect_core::ObjectiveName;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::testing::{config, gzip, lines, model_dir, write};

const BOTH: Classes = Classes::Both(ObjectiveName::Kto);

/// Role and content of each message of a prompt, the reply, the label.
type Dialogue = (Vec<(&'static str, String)>, String, bool);

fn open(
    files: &[String],
    model: &Path,
    config: &DataConfig,
    cache: &Path,
) -> (TokenStore, DataReport) {
    TokenStore::open_or_build(files, model, config, BOTH, cache).unwrap()
}

fn row_value((prompt, reply, label): &Dialogue) -> Value {
    let prompt: Vec<Value> =
        prompt.iter().map(|(role, content)| json!({"role": role, "content": content})).collect();
    json!({"prompt": prompt, "completion": [{"role": "assistant", "content": reply}], "label": label})
}

/// A column of lists of `{role, content, name}`, the last of them null everywhere.
fn messages_column(rows: &[Vec<(&str, &str)>]) -> ArrayRef {
    let strings = |pick: fn(&(&str, &str)) -> Option<String>| -> ArrayRef {
        Arc::new(rows.iter().flatten().map(pick).collect::<StringArray>())
    };
    let field = |name: &str| Arc::new(Field::new(name, DataType::Utf8, true));
    let messages = StructArray::from(vec![
        (field("role"), strings(|(role, _)| Some((*role).to_owned()))),
        (field("content"), strings(|(_, content)| Some((*content).to_owned()))),
        (field("name"), strings(|_| None)),
    ]);
    let item = Arc::new(Field::new("item", messages.data_type().clone(), true));
    let offsets = OffsetBuffer::from_lengths(rows.iter().map(Vec::len));
    Arc::new(ListArray::new(item, offsets, Arc::new(messages), None))
}

fn parquet(rows: &[Dialogue]) -> Vec<u8> {
    let prompts: Vec<Vec<(&str, &str)>> = rows
        .iter()
        .map(|(prompt, ..)| {
            prompt.iter().map(|(role, content)| (*role, content.as_str())).collect()
        })
        .collect();
    let replies: Vec<Vec<(&str, &str)>> =
        rows.iter().map(|(_, reply, _)| vec![("assistant", reply.as_str())]).collect();
    let labels: ArrayRef = Arc::new(rows.iter().map(|row| Some(row.2)).collect::<BooleanArray>());
    let unused: ArrayRef = Arc::new(rows.iter().map(|_| Some("x")).collect::<StringArray>());
    let columns = [
        ("prompt", messages_column(&prompts)),
        ("completion", messages_column(&replies)),
        ("label", labels),
        ("unused", unused),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

fn dialogues() -> impl Strategy<Value = Vec<Dialogue>> {
    let words = "[a-zA-Z0-9 .,äé😀\"\\\\\n]{1,20}";
    let turns =
        prop::collection::vec((prop::sample::select(vec!["user", "assistant"]), words), 1..4);
    let rows = prop::collection::vec((turns, words, any::<bool>()), 1..12);
    rows.prop_map(|mut rows| {
        // A store needs both classes.
        for (label, text) in [(true, "yes"), (false, "no")] {
            rows.push((vec![("user", "Well?".to_owned())], text.to_owned(), label));
        }
        rows
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_same_rows_give_the_same_store_in_every_format(rows in dialogues()) {
        let (model, dir) = (model_dir("chatml_style"), TempDir::new().unwrap());
        let text = lines(&rows.iter().map(row_value).collect::<Vec<_>>());
        let files = [
            write(dir.path(), "x.jsonl", &text),
            write(dir.path(), "x.jsonl.gz", gzip(text.as_bytes())),
            write(dir.path(), "x.jsonl.zst", zstd::encode_all(text.as_bytes(), 1).unwrap()),
            write(dir.path(), "x.parquet", parquet(&rows)),
        ];
        let stores = files.map(|file| open(&[file], model.path(), &config(), dir.path()).0);
        for store in &stores {
            prop_assert_eq!(store.digest(), stores[0].digest());
            prop_assert_eq!(store.len(), rows.len() as u64);
            for idx in 0..store.len() {
                prop_assert_eq!(store.row(RowId(idx)), stores[0].row(RowId(idx)));
                prop_assert_eq!(store.row(RowId(idx)).label.is_desirable(), rows[idx as usize].2);
            }
        }
    }
}

/// A data file with three rows, a model directory and an empty cache.
struct Setup {
    dir: TempDir,
    model: TempDir,
    file: String,
}

impl Setup {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let rows = [
            json!({"prompt": "QQ", "completion": "ZZZ", "label": true, "weight": 0.5}),
            json!({"prompt": "QQ", "completion": "Z", "label": false}),
            json!({"prompt": "Q", "completion": "ZZ", "label": 1}),
        ];
        let file = write(dir.path(), "x.jsonl", lines(&rows));
        Self { model: model_dir("chatml_style"), file, dir }
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn open(&self, config: &DataConfig) -> (TokenStore, DataReport) {
        open(std::slice::from_ref(&self.file), self.model.path(), config, &self.cache())
    }

    /// Names of the stores in the cache.
    fn stores(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.cache())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

#[test]
fn rows_keep_order_tokens_labels_and_weights() {
    let setup = Setup::new();
    let (store, report) = setup.open(&config());
    assert_eq!((store.len(), store.num_desirable(), store.num_undesirable()), (3, 2, 1));
    assert_eq!((store.num_tokens(), report.num_tokens), (14, 14));
    let rows: Vec<RowView<'_>> = (0..3).map(|idx| store.row(RowId(idx))).collect();
    let [letter, end] = [rows[0].completion[0], 2];
    assert_eq!(rows[0].completion, [letter, letter, letter, end]);
    assert_eq!(rows[2].completion, [letter, letter, end]);
    assert_eq!(rows[0].prompt, rows[1].prompt);
    assert_eq!(rows[0].prompt_hash, rows[1].prompt_hash);
    assert_ne!(rows[0].prompt_hash, rows[2].prompt_hash);
    assert_ne!(rows[0].completion_hash, rows[1].completion_hash);
    assert_eq!(rows.iter().map(|row| row.weight).collect::<Vec<_>>(), [0.5, 1.0, 1.0]);
}

#[test]
fn completions_are_cut_behind_the_prompt_they_follow() {
    let setup = Setup::new();
    let (whole, _) = setup.open(&config());
    let (store, report) = setup.open(&DataConfig { max_length: 4, ..config() });
    assert_eq!((report.truncated, report.num_tokens, store.num_tokens()), (1, 12, 12));
    // Behind its own prompt of two tokens there is room for two; behind one token, for three.
    let row = store.row(RowId(0));
    let completion = whole.row(RowId(0)).completion;
    assert_eq!((row.completion, completion.len()), (&completion[..3], 4));
    assert_eq!(row.completion_after(2, 4), &completion[..2]);
    assert_eq!(row.completion_after(1, 4), &completion[..3]);
    assert_eq!(row.completion_after(9, 4), &completion[..1]);
    assert_eq!(store.row(RowId(1)).completion_after(1, 4).len(), 2);
}

#[test]
fn one_class_is_enough_unless_it_is_trained_on() {
    let setup = Setup::new();
    let rows = [json!({"prompt": "QQ", "completion": "Z", "label": false})];
    let files = [write(setup.dir.path(), "one.jsonl", lines(&rows))];
    let open = |classes| {
        TokenStore::open_or_build(&files, setup.model.path(), &config(), classes, &setup.cache())
    };
    let refused = |objective, words: &str| {
        let error = open(Classes::Both(objective)).unwrap_err();
        assert!(matches!(error, DataError::OneClass { num_rows: 1, .. }), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
    };
    refused(ObjectiveName::Kto, "none is desirable: kto weighs");
    assert_eq!(setup.stores(), Vec::<String>::new());
    assert_eq!(open(Classes::Any).unwrap().0.num_undesirable(), 1);
    // The store that is there now does not change what is needed.
    refused(ObjectiveName::ApoZeroUnpaired, "none is desirable: apo_zero_unpaired raises");
}

#[test]
fn a_store_opens_again_wherever_its_files_lie() {
    let mut setup = Setup::new();
    let (first, report) = setup.open(&config());
    // Without a tokenizer nothing could be built: the second store must be the first one.
    let written = fs::metadata(setup.cache().join(&setup.stores()[0]).join("index.bin")).unwrap();
    let moved = setup.dir.path().join("moved.jsonl");
    fs::rename(&setup.file, &moved).unwrap();
    setup.file = moved.to_str().unwrap().to_owned();
    let (second, again) = setup.open(&config());
    let index = fs::metadata(setup.cache().join(&setup.stores()[0]).join("index.bin")).unwrap();
    assert_eq!(written.modified().unwrap(), index.modified().unwrap());
    assert_eq!(first.digest(), second.digest());
    assert_eq!(again.files[0].file, setup.file);
    assert_eq!(again.lengths, report.lengths);
    assert_eq!(setup.stores().len(), 1);
}

#[test]
fn whatever_decides_the_tokens_makes_another_store() {
    let setup = Setup::new();
    setup.open(&config());
    let check = |config: &DataConfig, stores: usize| {
        setup.open(config);
        assert_eq!(setup.stores().len(), stores, "{:?}", setup.stores());
    };
    check(&DataConfig { train: vec!["elsewhere".into()], ..config() }, 1);
    check(&DataConfig { max_length: 4, ..config() }, 2);
    check(&DataConfig { skip_bad_rows: true, ..config() }, 3);
    check(&DataConfig { label_threshold: Some(0.5), ..config() }, 4);
    fs::write(setup.model.path().join("chat_template.jinja"), "other").unwrap();
    check(&config(), 5);
    fs::write(&setup.file, fs::read_to_string(&setup.file).unwrap() + "\n").unwrap();
    check(&config(), 6);
}

#[test]
fn a_damaged_store_is_built_again() {
    let setup = Setup::new();
    let (built, _) = setup.open(&config());
    let store = setup.cache().join(&setup.stores()[0]);
    let check = |name: &str, damage: &dyn Fn(&mut Vec<u8>)| {
        let path = store.join(name);
        let mut bytes = fs::read(&path).unwrap();
        damage(&mut bytes);
        fs::write(&path, &bytes).unwrap();
        let error = open::open(&store).unwrap_err();
        assert!(matches!(error, DataError::DamagedStore { .. }), "{name}: {error}");
        assert_eq!(setup.open(&config()).0.digest(), built.digest());
        assert!(open::open(&store).is_ok());
    };
    for name in ["index.bin", "tokens.bin", "report.json"] {
        let length = fs::metadata(store.join(name)).unwrap().len() as usize;
        check(name, &|bytes| bytes.truncate(length - 1));
        check(name, &|bytes| bytes.clear());
        check(name, &|bytes| bytes.extend([0; 40]));
        for place in [0, 9, 13, 17, 25, 40, 130, length / 2, length - 1] {
            let place = place.min(length - 1);
            check(name, &|bytes| bytes[place] ^= 1);
        }
    }
    fs::remove_file(store.join("tokens.bin")).unwrap();
    assert!(matches!(open::open(&store), Err(DataError::DamagedStore { .. })));
    fs::remove_dir_all(&store).unwrap();
    fs::write(&store, "a file in its place").unwrap();
    assert_eq!(setup.open(&config()).0.digest(), built.digest());
}

#[test]
fn refused_data_leaves_nothing_behind() {
    let setup = Setup::new();
    let bad = write(
        setup.dir.path(),
        "bad.jsonl",
        "{\"prompt\": \"a\", \"completion\": \"b\", \"label\": \"maybe\"}\n",
    );
    let files = [setup.file.clone(), bad];
    let strict = config();
    let refused =
        TokenStore::open_or_build(&files, setup.model.path(), &strict, BOTH, &setup.cache());
    assert!(
        matches!(refused, Err(DataError::BadRows { total: 1, num_rows: 4, .. })),
        "{refused:?}"
    );
    assert_eq!(setup.stores(), Vec::<String>::new());
    let lenient = DataConfig { skip_bad_rows: true, ..config() };
    let (store, report) = open(&files, setup.model.path(), &lenient, &setup.cache());
    assert_eq!((store.len(), report.bad_rows.len()), (3, 1));
    assert!(report.bad_rows[0].file.ends_with("bad.jsonl"));
    assert_eq!(setup.stores().len(), 1);
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let setup = Setup::new();
    let cache = setup.dir.path().join("file");
    fs::write(&cache, "").unwrap();
    let files = [setup.file.clone()];
    let error =
        TokenStore::open_or_build(&files, setup.model.path(), &config(), BOTH, &cache).unwrap_err();
    assert_eq!(error.exit_code(), prospect_core::ExitCode::Storage);
    assert!(error.to_string().contains("creation failed"), "{error}");
}

#[test]
fn builders_side_by_side_agree() {
    let setup = Setup::new();
    std::thread::scope(|scope| {
        let builders: Vec<_> =
            (0..4).map(|_| scope.spawn(|| setup.open(&config()).0.digest().to_owned())).collect();
        let digests: Vec<String> =
            builders.into_iter().map(|builder| builder.join().unwrap()).collect();
        assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:?}");
    });
    assert_eq!(setup.stores().len(), 1, "{:?}", setup.stores());
}

#[test]
fn rows_of_messages_need_a_chat_template() {
    let setup = Setup::new();
    fs::write(setup.model.path().join("tokenizer_config.json"), "{\"eos_token\": \"</s>\"}")
        .unwrap();
    let rows = [
        json!({"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}], "label": true}),
    ];
    let file = write(setup.dir.path(), "chat.jsonl", lines(&rows));
    let error =
        TokenStore::open_or_build(&[file], setup.model.path(), &config(), BOTH, &setup.cache());
    assert!(matches!(error, Err(DataError::NoChatTemplate { .. })), "{error:?}");
}
