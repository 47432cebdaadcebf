//! Every format and every way to get one wrong.

use serde_json::json;

use super::*;
use crate::testing::expected;

fn parser<T>(threshold: Option<f64>, work: impl FnOnce(&RowParser<'_>) -> T) -> T {
    let columns = Columns::default();
    work(&RowParser { columns: &columns, label_threshold: threshold })
}

fn parse(row: &Value) -> Result<Vec<Row>, RowError> {
    parser(None, |parser| parser.parse(RawContent::Bytes(row.to_string().into_bytes())))
}

fn plain(content: &Content) -> Value {
    serde_json::to_value(content).unwrap()
}

/// The row becomes these pieces: prompt, completion, label.
fn check(row: Value, wanted: &[(Value, Value, bool)]) {
    let rows = parse(&row).unwrap_or_else(|error| panic!("{row}: {error:?}"));
    let found: Vec<_> = rows
        .iter()
        .map(|row| (plain(&row.prompt), plain(&row.completion), row.label.is_desirable()))
        .collect();
    assert_eq!(found, wanted, "{row}");
}

fn check_bad(row: Value, field: &str, wanted: &str) {
    let error = parse(&row).expect_err(&row.to_string());
    assert_eq!(error.field, field, "{row}: {error:?}");
    assert!(error.message.contains(wanted), "{row}: {error:?} does not hold {wanted:?}");
}

fn say(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

#[test]
fn unpaired_rows_of_text_and_of_messages() {
    check(
        json!({"prompt": "a", "completion": "b", "label": true}),
        &[(json!("a"), json!("b"), true)],
    );
    let (prompt, completion) = (json!([say("user", "a")]), json!([say("assistant", "b")]));
    check(
        json!({"prompt": prompt, "completion": completion, "label": 0, "chosen": null}),
        &[(prompt, completion, false)],
    );
}

#[test]
fn pairs_become_two_rows_chosen_first() {
    check(
        json!({"prompt": "a", "chosen": "b", "rejected": "c"}),
        &[(json!("a"), json!("b"), true), (json!("a"), json!("c"), false)],
    );
    // A question beside conversations that hold it already.
    let (question, good, bad) = (say("user", "q"), say("assistant", "g"), say("assistant", "b"));
    check(
        json!({"prompt": "q", "chosen": [question, good], "rejected": [question, bad]}),
        &[(json!([question]), json!([good]), true), (json!([question]), json!([bad]), false)],
    );
}

#[test]
fn the_common_beginning_is_the_prompt_as_in_trl() {
    let cases = expected();
    for case in cases["pairs"].as_array().unwrap() {
        let wanted = &case["expected"];
        check(
            json!({"chosen": case["chosen"], "rejected": case["rejected"]}),
            &[
                (wanted["prompt"].clone(), wanted["chosen"].clone(), true),
                (wanted["prompt"].clone(), wanted["rejected"].clone(), false),
            ],
        );
    }
}

#[test]
fn conversations_end_with_the_labelled_reply() {
    let turns = [say("user", "a"), say("assistant", "b"), say("user", "c"), say("assistant", "d")];
    let wanted = [(json!(turns[..3]), json!(turns[3..]), true)];
    check(json!({"messages": turns, "label": 1}), &wanted);
    check(json!({"messages": turns, "kto_tag": true}), &wanted);
    let shared = json!([
        {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"},
        {"from": "human", "value": "c"}, {"from": "gpt", "value": "d"},
    ]);
    check(json!({"conversations": shared, "kto_tag": true}), &wanted);
    check(
        json!({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "s", "kto_tag": false}),
        &[(json!([say("system", "s"), turns[0]]), json!([turns[1]]), false)],
    );
}

#[test]
fn alpaca_rows_become_conversations() {
    check(
        json!({"instruction": "i", "input": "x", "output": "o", "kto_tag": true}),
        &[(json!([say("user", "i\nx")]), json!([say("assistant", "o")]), true)],
    );
    check(
        json!({"instruction": "i", "input": "", "output": "o", "system": "s", "history": [["q", "a"]], "kto_tag": false}),
        &[(
            json!([say("system", "s"), say("user", "q"), say("assistant", "a"), say("user", "i")]),
            json!([say("assistant", "o")]),
            false,
        )],
    );
}

#[test]
fn labels_are_booleans_bits_or_scores() {
    let check = |label: Value, threshold: Option<f64>, wanted: Result<bool, &str>| {
        let row = json!({"prompt": "a", "completion": "b", "label": label});
        let RawContent::Object(row) = RawContent::Object(row.as_object().cloned().unwrap()) else {
            return;
        };
        let parsed = parser(threshold, |parser| parser.parse(RawContent::Object(row)));
        match (parsed, wanted) {
            (Ok(rows), Ok(desirable)) => {
                assert_eq!(rows[0].label.is_desirable(), desirable, "{label}")
            }
            (Err(error), Err(words)) => {
                assert_eq!(error.field, "label");
                assert!(
                    error.message.contains(words),
                    "{label}: {error:?} does not hold {words:?}"
                );
            }
            (parsed, _) => panic!("{label}: {parsed:?}"),
        }
    };
    check(json!(true), None, Ok(true));
    check(json!(0), None, Ok(false));
    check(json!(1), None, Ok(true));
    check(json!(0.0), None, Ok(false));
    check(json!(1.0), None, Ok(true));
    check(json!(1.5), None, Err("found the number 1.5"));
    check(json!("maybe"), None, Err("found the text \"maybe\"; expected true or false, or 0 or 1"));
    check(json!("true"), None, Err("found the text \"true\""));
    check(json!(null), None, Err("the label is missing"));
    check(json!(2), None, Err("for scores set data.label_threshold"));
    check(json!(-1), None, Err("found the number -1"));
    check(json!(0.5), None, Err("for scores set data.label_threshold"));
    check(json!(0.5), Some(0.5), Ok(true));
    check(json!(0.4), Some(0.5), Ok(false));
    check(json!(1), Some(3.0), Ok(false));
    check(json!(false), Some(-1.0), Ok(false));
    check(json!("4"), Some(3.0), Err("expected a score"));
}

#[test]
fn weights_and_template_variables_come_along() {
    let row = json!({
        "prompt": "a", "chosen": "b", "rejected": "c", "weight": 2.5,
        "tools": "[{\"name\": \"t\"}]", "chat_template_kwargs": {"enable_thinking": false},
    });
    for row in parse(&row).unwrap() {
        assert_eq!(row.weight, 2.5);
        let arguments = Value::Object(row.arguments);
        assert_eq!(arguments, json!({"enable_thinking": false, "tools": [{"name": "t"}]}));
    }
    let with = |name: &str, value: Value| {
        let mut row = json!({"prompt": "a", "completion": "b", "label": true});
        row[name] = value;
        row
    };
    check_bad(
        with("weight", json!(-1)),
        "weight",
        "found the number -1; expected a number that is 0 or above",
    );
    check_bad(with("weight", json!("NaN")), "weight", "found the text \"NaN\"");
    check_bad(with("tools", json!("{")), "tools", "expected a list of tools as JSON");
    check_bad(with("tools", json!({})), "tools", "found an object");
    check_bad(with("chat_template_kwargs", json!([])), "chat_template_kwargs", "found a list of 0");
}

#[test]
fn columns_can_be_renamed() {
    let columns =
        Columns { prompt: "question".into(), label: "thumb".into(), ..Columns::default() };
    let parser = RowParser { columns: &columns, label_threshold: None };
    let row = json!({"question": "a", "completion": "b", "thumb": false, "label": "unused"});
    let rows = parser.parse(RawContent::Bytes(row.to_string().into_bytes())).unwrap();
    assert!(!rows[0].label.is_desirable());
    assert!(parser.read_columns().contains(&"question"));
    let row = json!({"prompt": "a", "completion": "b", "thumb": true});
    let error = parser.parse(RawContent::Bytes(row.to_string().into_bytes())).unwrap_err();
    assert_eq!(error.field, "question");
}

#[test]
fn bad_rows_name_the_field_what_was_found_and_what_is_expected() {
    let user = json!([say("user", "a")]);
    check_bad(json!([1]), "", "found a list of 1; expected a JSON object");
    check_bad(
        json!({"text": "a"}),
        "",
        "the row has the columns text; expected prompt, completion and label",
    );
    check_bad(json!({"prompt": "a", "label": true}), "", "columns are renamed under data.columns");
    check_bad(json!({"completion": "a", "label": true}), "prompt", "the column is missing");
    check_bad(
        json!({"prompt": 7, "completion": "a", "label": true}),
        "prompt",
        "found the number 7; expected text or a list of messages",
    );
    check_bad(
        json!({"prompt": "", "completion": "a", "label": true}),
        "prompt",
        "the prompt is empty",
    );
    check_bad(
        json!({"prompt": "a", "completion": "", "label": true}),
        "completion",
        "the completion is empty",
    );
    check_bad(
        json!({"prompt": user, "completion": [say("assistant", "")], "label": true}),
        "completion",
        "the completion is empty",
    );
    check_bad(
        json!({"prompt": user, "completion": "b", "label": true}),
        "completion",
        "it holds text, but prompt holds messages",
    );
    check_bad(
        json!({"prompt": [{"role": "user"}], "completion": "b", "label": true}),
        "prompt",
        "message 1: found no content",
    );
    check_bad(
        json!({"prompt": [say("user", "a"), {"content": "b"}], "completion": "b"}),
        "prompt",
        "message 2: found no role",
    );
    check_bad(
        json!({"prompt": ["hi"], "completion": "b"}),
        "prompt",
        "message 1: found the text \"hi\"; expected an object with role and content",
    );
    check_bad(json!({"prompt": "a", "chosen": "b"}), "rejected", "the column is missing");
    check_bad(
        json!({"prompt": "a", "chosen": "b", "rejected": "b"}),
        "rejected",
        "the same as the chosen",
    );
    check_bad(json!({"chosen": "b", "rejected": "c"}), "prompt", "no common beginning");
    check_bad(
        json!({"chosen": "b", "rejected": user}),
        "rejected",
        "it holds messages, but chosen holds text",
    );
    check_bad(
        json!({"messages": user, "label": true}),
        "messages",
        "the last message is not the assistant's",
    );
    check_bad(json!({"messages": "a", "label": true}), "messages", "expected a list of messages");
    check_bad(
        json!({"conversations": [{"from": "function_call", "value": "{}"}], "label": true}),
        "conversations",
        "function_call",
    );
    check_bad(json!({"instruction": "i", "output": "o"}), "label", "the label is missing");
    check_bad(
        json!({"instruction": "i", "history": "h", "output": "o", "kto_tag": true}),
        "history",
        "[question, answer] pairs",
    );
}

#[test]
fn broken_lines_say_where() {
    let check = |line: &[u8], wanted: &str| {
        let error =
            parser(None, |parser| parser.parse(RawContent::Bytes(line.to_vec()))).unwrap_err();
        assert_eq!((error.field.as_str(), error.message.as_str()), ("", wanted));
    };
    check(
        b"{\"prompt\": ",
        "expected one JSON object a line: EOF while parsing a value at character 11",
    );
    check(b"{\"prompt\": \"\xff\"}", "expected UTF-8, but byte 13 is not");
}

#[test]
fn prompts_need_neither_completion_nor_label() {
    let check = |row: Value, wanted: Value| {
        let parsed = parser(None, |parser| {
            parser.parse_prompt(RawContent::Bytes(row.to_string().into_bytes()))
        });
        assert_eq!(plain(&parsed.unwrap().0), wanted, "{row}");
    };
    let (question, answer) = (say("user", "a"), say("assistant", "b"));
    check(json!({"prompt": "a"}), json!("a"));
    check(json!({"prompt": [question], "completion": "b", "label": "maybe"}), json!([question]));
    check(json!({"messages": [question]}), json!([question]));
    check(json!({"messages": [question, answer]}), json!([question]));
    check(json!({"instruction": "i", "input": "x"}), json!([say("user", "i\nx")]));
    check(json!({"chosen": "a b", "rejected": "a c"}), json!("a"));
    let nothing =
        parser(None, |parser| parser.parse_prompt(RawContent::Bytes(b"{\"text\": 1}".to_vec())));
    assert!(nothing.unwrap_err().message.contains("the row has the columns text"));
}
