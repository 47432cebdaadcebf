//! Decoder-only language models on libtorch: Llama 2 and 3, SmolLM2, Mistral, Qwen2 and Qwen3,
//! loaded from and saved to Hugging Face directories. A model is one chain (embedding, blocks,
//! final norm) whose blocks are configured by data; nothing in the configuration or the weights is
//! guessed or passed over. This crate knows neither objectives nor ranks.

mod block;
mod checkpoint;
mod error;
pub mod generate;
mod layout;
mod load;
mod model;
mod rotary;
mod save;

pub use block::Attend;
pub use error::{ErrorClass, ModelError};
pub use layout::{Layout, PrefixedKeys, Span};
pub use load::{ComputeType, LoadOptions, ModelFiles};
pub use model::{CausalLm, NamedParameter};
pub use prospect_libtorch::Intermediates;
pub use rotary::RotaryTables;
pub use save::{ModelPart, SaveType};

pub use prospect_shape::{Family, Llama3Scaling, ModelConfig, RopeConfig, ShapeError, StoredType};
use prospect_shape::{config, spec};

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
