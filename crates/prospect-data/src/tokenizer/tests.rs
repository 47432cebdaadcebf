//! Texts and token ids against those of transformers and TRL, for each family.

use std::collections::HashMap;
use std::fs;

use prospect_core::Label;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::*;
use crate::testing::{expected, model_dir};

fn load(family: &str) -> (TempDir, ChatTokenizer) {
    let dir = model_dir(family);
    let tokenizer = ChatTokenizer::load_at(dir.path(), 0).unwrap();
    (dir, tokenizer)
}

fn messages(value: &Value) -> Vec<Message> {
    match Content::parse(value) {
        Ok(Content::Messages(messages)) => messages,
        other => panic!("{other:?}"),
    }
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Each family's tokenizer, loaded once.
fn for_each_case(list: &str, mut check: impl FnMut(&ChatTokenizer, &Value)) {
    let mut loaded = HashMap::new();
    let cases = expected();
    let cases = cases[list].as_array().unwrap();
    assert!(cases.len() > 60, "{} cases", cases.len());
    for case in cases {
        let family = case["family"].as_str().unwrap();
        let (_, tokenizer) = loaded.entry(family.to_owned()).or_insert_with(|| load(family));
        check(tokenizer, case);
    }
    assert!(loaded.len() >= 6, "{} families", loaded.len());
}

#[test]
fn rendered_texts_and_tokens_equal_transformers() {
    for_each_case("renders", |tokenizer, case| {
        let opening = match case["add_generation_prompt"].as_bool().unwrap() {
            true => GenerationPrompt::Added,
            false => GenerationPrompt::Absent,
        };
        let (messages, arguments) = (messages(&case["messages"]), object(&case["arguments"]));
        let text = tokenizer.render(&messages, &arguments, opening);
        if let Some(words) = case["error"].as_str() {
            let refused = text.unwrap_err();
            assert!(refused.starts_with(words), "{refused:?} is not {words:?}");
            return;
        }
        assert_eq!(text.as_deref(), Ok(case["text"].as_str().unwrap()), "{case}");
        let token_ids = tokenizer.chat_ids(&messages, &arguments, opening).unwrap();
        assert_eq!(token_ids, ids(&case["ids"]), "{case}");
    });
}

#[test]
fn rows_are_tokenised_as_trl_does() {
    for_each_case("rows", |tokenizer, case| {
        let mut arguments = Map::new();
        if case["prompt"].is_array() {
            arguments.insert("date_string".into(), "26 Jul 2024".into());
        }
        let row = Row {
            prompt: Content::parse(&case["prompt"]).unwrap(),
            completion: Content::parse(&case["completion"]).unwrap(),
            label: Label::Desirable,
            weight: 1.0,
            arguments,
        };
        let encoded = tokenizer.encode_row(&row).unwrap();
        let wanted = EncodedRow {
            prompt: ids(&case["prompt_ids"]),
            completion: ids(&case["completion_ids"]),
            lost_prompt_tokens: case["lost_prompt_tokens"].as_u64().unwrap() as usize,
        };
        assert_eq!(encoded, wanted, "{case}");
    });
}

#[test]
fn a_prompt_opens_the_reply_and_decodes_without_special_tokens() {
    let (_dir, tokenizer) = load("chatml_style");
    let token_ids = tokenizer.encode_prompt(&Content::question("Hi")).unwrap();
    let text = tokenizer.decode(&token_ids).unwrap();
    assert!(text.ends_with("user\nHi\nassistant\n"), "{text:?}");
}

#[test]
fn end_tokens_come_from_every_file_that_names_them() {
    let check = |files: &[(&str, Value)], wanted: &[u32]| {
        let dir = model_dir("chatml_style");
        for (name, content) in files {
            fs::write(dir.path().join(name), content.to_string()).unwrap();
        }
        assert_eq!(ChatTokenizer::load(dir.path()).unwrap().eos_token_ids(), wanted, "{files:?}");
    };
    check(&[], &[2]);
    check(&[("generation_config.json", json!({"eos_token_id": [0, 2]}))], &[0, 2]);
    check(&[("config.json", json!({"eos_token_id": 7}))], &[7, 2]);
    let both = [
        ("generation_config.json", json!({"eos_token_id": 5})),
        ("config.json", json!({"eos_token_id": 7})),
    ];
    check(&both, &[5, 2]);
    let silent = ("generation_config.json", json!({"eos_token_id": null}));
    check(&[silent, ("config.json", json!({"eos_token_id": 7}))], &[7, 2]);
}

#[test]
fn end_tokens_that_cannot_be_understood_are_an_error() {
    let check = |name: &str, content: &str, wanted: &str| {
        let dir = model_dir("chatml_style");
        fs::write(dir.path().join(name), content).unwrap();
        let error = ChatTokenizer::load(dir.path()).unwrap_err();
        let words = error.to_string();
        assert!(words.contains(&format!("{name}: {wanted}")), "{words:?}");
        assert_eq!(error.exit_code(), prospect_core::ExitCode::Usage);
    };
    for name in ["generation_config.json", "config.json"] {
        check(name, "{", "expected a JSON object");
        check(name, "[2]", "expected a JSON object");
        check(name, r#"{"eos_token_id": "</s>"}"#, "eos_token_id is \"</s>\"; expected a token id");
        check(name, r#"{"eos_token_id": [2, -1]}"#, "eos_token_id is [2,-1]");
        check(name, r#"{"eos_token_id": 4294967296}"#, "eos_token_id is 4294967296");
    }
}

#[test]
fn a_template_file_wins_over_the_configuration() {
    let dir = model_dir("chatml_style");
    fs::write(dir.path().join("chat_template.jinja"), "{{ messages[0].content }}").unwrap();
    let tokenizer = ChatTokenizer::load(dir.path()).unwrap();
    let ids = tokenizer.encode_prompt(&Content::question("user")).unwrap();
    assert_eq!(tokenizer.decode(&ids).unwrap(), "user");
}

#[test]
fn model_directories_that_do_not_fit_are_named() {
    let check = |name: &str, content: Option<&str>, prompt: Content, wanted: &str| {
        let dir = model_dir("inst_style");
        let path = dir.path().join(name);
        match content {
            Some(content) => fs::write(&path, content).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let row = Row {
            completion: prompt.clone(),
            prompt,
            label: Label::Desirable,
            weight: 1.0,
            arguments: Map::new(),
        };
        let words =
            match ChatTokenizer::load(dir.path()).map(|tokenizer| tokenizer.encode_row(&row)) {
                Err(error) | Ok(Err(EncodeError::Model(error))) => error.to_string(),
                Ok(Err(EncodeError::Row(error))) => error.message,
                Ok(Ok(row)) => format!("{row:?}"),
            };
        assert!(words.contains(wanted), "{words:?} does not hold {wanted:?}");
    };
    let (chat, text) = (Content::question("Hi"), Content::Text("Hi".into()));
    check("tokenizer.json", None, chat.clone(), "tokenizer.json: the file is missing");
    check(
        "tokenizer.json",
        Some("{}"),
        chat.clone(),
        "tokenizer.json: the tokenizer cannot be read",
    );
    check("tokenizer_config.json", None, chat.clone(), "the model has no chat template");
    check("tokenizer_config.json", None, text, "names no eos_token");
    check(
        "tokenizer_config.json",
        Some("{"),
        chat.clone(),
        "tokenizer_config.json: expected a JSON object",
    );
    check(
        "chat_template.jinja",
        Some("{% if"),
        chat.clone(),
        "chat_template.jinja: the chat template cannot be used",
    );
    let unnamed = r#"{"chat_template": [{"name": "rag", "template": ""}]}"#;
    check(
        "tokenizer_config.json",
        Some(unnamed),
        chat.clone(),
        "without a template of the name \"default\"",
    );
    check(
        "chat_template.jinja",
        Some("{{ raise_exception('no') }}"),
        chat,
        "the chat template refuses the messages: no",
    );
}
