//! The tokenizer of a Hugging Face model directory together with its chat
//! template: prompts and rows become token ids as TRL makes them.

mod config;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use tokenizers::Tokenizer;

use crate::chat::{ChatTemplate, GenerationPrompt};
use crate::row::{Content, Message, Row};
use crate::{DataError, row::RowError};
pub(crate) use config::TOKENIZER_FILES;
use config::TokenizerFiles;

/// Tokenizer and chat template of a model.
#[derive(Debug)]
pub struct ChatTokenizer {
    dir: PathBuf,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    eos_token: Option<String>,
    eos_token_ids: Vec<u32>,
}

/// A row as tokens, before anything is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedRow {
    /// Tokens before the completion.
    pub prompt: Vec<u32>,
    /// Tokens of the completion.
    pub completion: Vec<u32>,
    /// Tokens at the end of the prompt that the whole text does not continue: 0 where the prompt
    /// is a prefix, as it should be. They are left out of `prompt`.
    pub lost_prompt_tokens: usize,
}

/// Why a row could not be tokenised: its own fault, or the model directory's.
#[derive(Debug)]
pub(crate) enum EncodeError {
    Row(RowError),
    Model(DataError),
}

impl ChatTokenizer {
    /// Loads `tokenizer.json`, `tokenizer_config.json` and the chat template of a model
    /// directory. The time that a template may print is that of this call.
    ///
    /// # Errors
    /// Files that are missing or do not fit together.
    pub fn load(model_dir: &Path) -> Result<Self, DataError> {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::load_at(model_dir, since_1970.as_secs().cast_signed())
    }

    /// The same at a given time, in seconds since 1970 UTC.
    pub(crate) fn load_at(model_dir: &Path, now: i64) -> Result<Self, DataError> {
        let files = TokenizerFiles::read(model_dir)?;
        let tokenizer = files.tokenizer()?;
        let template = match &files.template {
            None => None,
            Some((source, path)) => {
                let template = ChatTemplate::new(source, files.special_tokens.clone(), now)
                    .map_err(|message| DataError::Template { path: path.clone(), message })?;
                Some(template)
            }
        };
        let eos_token = files.special_token("eos_token").map(str::to_owned);
        let eos_token_ids = files.eos_token_ids(&tokenizer)?;
        Ok(Self { dir: model_dir.to_owned(), tokenizer, template, eos_token, eos_token_ids })
    }

    /// Whether the model can hold a conversation.
    pub fn has_chat_template(&self) -> bool {
        self.template.is_some()
    }

    /// Tokens after which a generation ends: those of `generation_config.json`, or of
    /// `config.json`, and the tokenizer's own.
    pub fn eos_token_ids(&self) -> Vec<u32> {
        self.eos_token_ids.clone()
    }

    /// Tokens of a prompt: text with the tokenizer's special tokens, messages rendered with the
    /// opening of the reply.
    ///
    /// # Errors
    /// Messages without a chat template, or that the template refuses.
    pub fn encode_prompt(&self, prompt: &Content) -> Result<Vec<u32>, DataError> {
        self.encode_prompt_with(prompt, &Map::new())
    }

    /// The same with further variables for the chat template (`tools` and others).
    ///
    /// # Errors
    /// Those of [`Self::encode_prompt`].
    pub fn encode_prompt_with(
        &self,
        prompt: &Content,
        arguments: &Map<String, Value>,
    ) -> Result<Vec<u32>, DataError> {
        self.prompt_ids(prompt, arguments).map_err(|error| match error {
            EncodeError::Model(error) => error,
            EncodeError::Row(error) => {
                DataError::Prompt { dir: self.dir.clone(), message: error.message }
            }
        })
    }

    /// The text of tokens, without special tokens.
    ///
    /// # Errors
    /// Ids that the tokenizer's decoder refuses.
    pub fn decode(&self, token_ids: &[u32]) -> Result<String, DataError> {
        self.tokenizer.decode(token_ids, true).map_err(|error| DataError::Tokenizer {
            path: self.dir.clone(),
            message: format!("the tokens cannot be decoded: {error}"),
        })
    }

    /// Tokens of prompt and completion. The completion begins where the tokens of the prompt and
    /// those of the whole part, as in TRL.
    pub(crate) fn encode_row(&self, row: &Row) -> Result<EncodedRow, EncodeError> {
        let mut prompt = self.prompt_ids(&row.prompt, &row.arguments)?;
        let mut whole = match (&row.prompt, &row.completion) {
            (Content::Text(prompt), Content::Text(completion)) => {
                let eos_token = self.eos_token.as_deref().ok_or_else(|| {
                    EncodeError::Model(DataError::NoEosToken { dir: self.dir.clone() })
                })?;
                let end = if completion.ends_with(eos_token) { "" } else { eos_token };
                self.text_ids(&format!("{prompt}{completion}{end}"), SpecialTokens::Added)?
            }
            (Content::Messages(prompt), Content::Messages(completion)) => {
                let messages = [prompt.as_slice(), completion.as_slice()].concat();
                self.chat_ids(&messages, &row.arguments, GenerationPrompt::Absent)?
            }
            (prompt, completion) => {
                let message = format!(
                    "it holds {}, but the prompt holds {}",
                    completion.kind(),
                    prompt.kind()
                );
                return Err(EncodeError::Row(RowError::new("completion", message)));
            }
        };
        let start = prompt.iter().zip(&whole).take_while(|(left, right)| left == right).count();
        let lost_prompt_tokens = prompt.len() - start;
        prompt.truncate(start);
        let completion = whole.split_off(start);
        Ok(EncodedRow { prompt, completion, lost_prompt_tokens })
    }

    /// The text of a conversation as the model's template writes it.
    #[cfg(test)]
    pub(crate) fn render(
        &self,
        messages: &[Message],
        arguments: &Map<String, Value>,
        generation_prompt: GenerationPrompt,
    ) -> Result<String, String> {
        self.template.as_ref().map_or_else(
            || Ok(String::new()),
            |template| template.render(messages, arguments, generation_prompt),
        )
    }

    fn prompt_ids(
        &self,
        prompt: &Content,
        arguments: &Map<String, Value>,
    ) -> Result<Vec<u32>, EncodeError> {
        match prompt {
            Content::Text(text) => self.text_ids(text, SpecialTokens::Added),
            Content::Messages(messages) => {
                self.chat_ids(messages, arguments, GenerationPrompt::Added)
            }
        }
    }

    fn chat_ids(
        &self,
        messages: &[Message],
        arguments: &Map<String, Value>,
        generation_prompt: GenerationPrompt,
    ) -> Result<Vec<u32>, EncodeError> {
        let template = self.template.as_ref().ok_or_else(|| {
            EncodeError::Model(DataError::NoChatTemplate { dir: self.dir.clone() })
        })?;
        let text = template.render(messages, arguments, generation_prompt).map_err(|words| {
            EncodeError::Row(RowError::new(
                "",
                format!("the chat template refuses the messages: {words}"),
            ))
        })?;
        self.text_ids(&text, SpecialTokens::Absent)
    }

    fn text_ids(&self, text: &str, special_tokens: SpecialTokens) -> Result<Vec<u32>, EncodeError> {
        let encoding = self.tokenizer.encode_fast(text, special_tokens == SpecialTokens::Added);
        let encoding = encoding.map_err(|error| {
            EncodeError::Row(RowError::new("", format!("the text cannot be tokenised: {error}")))
        })?;
        Ok(encoding.get_ids().to_vec())
    }
}

/// Whether the tokenizer puts its own tokens (a beginning, an end) around a text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SpecialTokens {
    Absent,
    Added,
}
