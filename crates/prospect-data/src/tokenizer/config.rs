//! The files beside a tokenizer: special tokens, chat template and end tokens,
//! read as transformers reads them.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::Tokenizer;

use crate::DataError;

const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";
const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";

/// Files that decide which tokens a row becomes.
pub(crate) const TOKENIZER_FILES: [&str; 4] = [TOKENIZER, CONFIG, TEMPLATE, SPECIAL_TOKENS_MAP];

/// Key of the tokens that end a generation.
const EOS_IDS: &str = "eos_token_id";

/// Special tokens that templates know by name.
const SPECIAL_TOKEN_NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What the files of a directory say.
pub(super) struct TokenizerFiles {
    dir: PathBuf,
    /// Names and texts, in transformers' order.
    pub special_tokens: Vec<(String, String)>,
    /// Source of the chat template, and the file it stands in.
    pub template: Option<(String, PathBuf)>,
}

impl TokenizerFiles {
    pub fn read(dir: &Path) -> Result<Self, DataError> {
        let config = read_json(dir, CONFIG)?.unwrap_or(Value::Null);
        let map = read_json(dir, SPECIAL_TOKENS_MAP)?.unwrap_or(Value::Null);
        let special_tokens = SPECIAL_TOKEN_NAMES
            .iter()
            .filter_map(|name| {
                let token = token_text(&config[name]).or_else(|| token_text(&map[name]))?;
                Some(((*name).to_owned(), token))
            })
            .collect();
        let template = match read_text(dir, TEMPLATE)? {
            Some(source) => Some((source, dir.join(TEMPLATE))),
            None => template_in(&config, dir)?.map(|source| (source, dir.join(CONFIG))),
        };
        Ok(Self { dir: dir.to_owned(), special_tokens, template })
    }

    pub fn special_token(&self, name: &str) -> Option<&str> {
        self.special_tokens.iter().find(|(known, _)| known == name).map(|(_, token)| token.as_str())
    }

    /// The tokenizer without padding and truncation. Which tokens surround a plain text stands in
    /// `tokenizer.json` alone: transformers 5 ignores `add_bos_token` and `add_eos_token` beside it.
    pub fn tokenizer(&self) -> Result<Tokenizer, DataError> {
        let path = self.dir.join(TOKENIZER);
        let refuse = |message: String| DataError::Tokenizer { path: path.clone(), message };
        if !path.is_file() {
            return Err(refuse(
                "the file is missing; expected a Hugging Face model directory with a fast tokenizer".to_owned(),
            ));
        }
        let mut tokenizer = Tokenizer::from_file(&path)
            .map_err(|error| refuse(format!("the tokenizer cannot be read: {error}")))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| refuse(error.to_string()))?;
        Ok(tokenizer)
    }

    /// Ids that end a generation, without repeats.
    ///
    /// # Errors
    /// A `generation_config.json` or `config.json` that is there and cannot be understood.
    pub fn eos_token_ids(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>, DataError> {
        let mut ids = match self.listed_eos_token_ids("generation_config.json")? {
            Some(ids) => ids,
            None => self.listed_eos_token_ids("config.json")?.unwrap_or_default(),
        };
        let own = self.special_token("eos_token").and_then(|token| tokenizer.token_to_id(token));
        if let Some(own) = own.filter(|own| !ids.contains(own)) {
            ids.push(own);
        }
        Ok(ids)
    }

    /// The ids that a file lists; nothing where it or the key is absent.
    fn listed_eos_token_ids(&self, file: &str) -> Result<Option<Vec<u32>>, DataError> {
        let value = read_json(&self.dir, file)?.map_or(Value::Null, |mut it| it[EOS_IDS].take());
        let ids = match &value {
            Value::Null => return Ok(None),
            Value::Array(ids) => ids.as_slice(),
            id => std::slice::from_ref(id),
        };
        let ids = ids.iter().map(|id| u32::try_from(id.as_u64()?).ok());
        ids.collect::<Option<Vec<u32>>>().map(Some).ok_or_else(|| DataError::Tokenizer {
            path: self.dir.join(file),
            message: format!("{EOS_IDS} is {value}; expected a token id or a list of token ids"),
        })
    }
}

/// A template in `tokenizer_config.json`: text, or a list of named texts with one for general use.
fn template_in(config: &Value, dir: &Path) -> Result<Option<String>, DataError> {
    match &config["chat_template"] {
        Value::Null => Ok(None),
        Value::String(source) => Ok(Some(source.clone())),
        Value::Array(named) => {
            let default = named.iter().find(|entry| entry["name"] == "default");
            let source = default.and_then(|entry| entry["template"].as_str());
            source.map(|source| Some(source.to_owned())).ok_or_else(|| DataError::Template {
                path: dir.join(CONFIG),
                message: "it is a list without a template of the name \"default\"".to_owned(),
            })
        }
        _ => Err(DataError::Template {
            path: dir.join(CONFIG),
            message: "expected text or a list of named templates".to_owned(),
        }),
    }
}

/// A token given as text or as an object with its content.
fn token_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned)
}

fn read_json(dir: &Path, name: &str) -> Result<Option<Value>, DataError> {
    let Some(text) = read_text(dir, name)? else { return Ok(None) };
    let object: Map<String, Value> =
        serde_json::from_str(&text).map_err(|error| DataError::Tokenizer {
            path: dir.join(name),
            message: format!("expected a JSON object: {error}"),
        })?;
    Ok(Some(Value::Object(object)))
}

fn read_text(dir: &Path, name: &str) -> Result<Option<String>, DataError> {
    let path = dir.join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DataError::Read { path, line: 0, source }),
    }
}
