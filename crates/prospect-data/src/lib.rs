//! From feedback rows to tokens: readers of the usual formats, chat templates as
//! transformers renders them, tokenisation as TRL does it, and a checked token
//! store on disk. It links no tensor library and knows no network.

mod chat;
mod check;
mod error;
mod pipeline;
mod prompts;
mod read;
mod report;
mod row;
mod store;
mod tokenizer;

#[cfg(test)]
mod testing;

pub use check::check;
pub use error::{BadRow, DataError};
pub use prompts::{PromptRow, read_prompts};
pub use report::{Classes, DataReport, FileRows, LengthUnit, Lengths, Percentiles, WeightAdvice};
pub use row::{Content, Message, Row};
pub use store::{RowView, TokenStore};
pub use tokenizer::{ChatTokenizer, EncodedRow};
