//! Dates and JSON as Python writes them; whole templates are compared in the
//! tests of the tokenizer.

use serde_json::json;

use super::*;
use crate::testing::expected;

fn render(template: &str, arguments: serde_json::Value) -> Result<String, String> {
    let serde_json::Value::Object(arguments) = arguments else { panic!("an object") };
    let template = ChatTemplate::new(template, Vec::new(), 0)?;
    template.render(&[Message::new("user", "Hi")], &arguments, GenerationPrompt::Absent)
}

fn check(template: &str, expected: &str) {
    assert_eq!(render(template, json!({})).as_deref(), Ok(expected), "{template}");
}

#[test]
fn dates_equal_pythons() {
    for case in expected()["dates"].as_array().unwrap() {
        let format = case["format"].as_str().unwrap();
        let text = clock::strftime(case["seconds"].as_i64().unwrap(), format);
        assert_eq!(text.as_deref(), Ok(case["text"].as_str().unwrap()), "{case}");
    }
    assert_eq!(clock::strftime(0, "%Q"), Err('Q'));
}

#[test]
fn the_time_is_an_argument() {
    check("{{ strftime_now('%d %b %Y') }}", "01 Jan 1970");
}

#[test]
fn generation_tags_keep_their_white_space_marks() {
    let replaced = generation::without_generation_tags(
        "a {%- generation -%} b {% endgeneration %} {{ '{%' }} {% if x %}{% endif %} {%generation%}{%endgeneration%}",
    );
    assert_eq!(
        replaced,
        "a {%- with -%} b {% endwith %} {{ '{%' }} {% if x %}{% endif %} {%with%}{%endwith%}"
    );
    check("[{% generation %}x{% endgeneration %}]", "[x]");
}

#[test]
fn blocks_leave_no_white_space() {
    check("a\n  {% if true %}\nb\n  {% endif %}\nc\n", "a\nb\nc");
}

#[test]
fn errors_name_the_line_and_the_templates_own_words() {
    let words =
        render("{{ 1 }}\n{{ raise_exception('no tools, please') }}", json!({})).unwrap_err();
    assert_eq!(words, "no tools, please (line 2 of the template)");
    let words = ChatTemplate::new("a\n{% if %}", Vec::new(), 0).unwrap_err();
    assert!(words.ends_with("(line 2 of the template)"), "{words}");
    let words = render("{{ messages | tojson(indents=2) }}", json!({})).unwrap_err();
    assert!(words.contains("indents"), "{words}");
}

#[test]
fn arguments_win_over_the_fixed_variables() {
    assert_eq!(render("{{ tools }}{{ x }}", json!({"tools": "T", "x": 1})).as_deref(), Ok("T1"));
    check("{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}", "TrueTrueFalse");
}
