//! How long the rows of a run are.

use prospect_core::RunConfig;
use prospect_data::{Classes, TokenStore};
use prospect_shape::Lengths;

use crate::args::PlanArgs;
use crate::files;

/// The rows' lengths, and where they come from.
pub struct Rows {
    pub lengths: Lengths,
    /// Their number, where there is data.
    pub num_rows: Option<u64>,
    /// In words.
    pub source: String,
}

impl Rows {
    /// As typed; else those of the data, which is tokenised where it has not been; else, where it
    /// cannot be, as long as the configuration allows.
    pub fn of(args: &PlanArgs, config: &RunConfig) -> Self {
        if let (Some(prompt), Some(completion)) = (args.prompt_tokens, args.completion_tokens) {
            let lengths = Lengths::uniform(prompt, completion);
            return Self { lengths, num_rows: None, source: "as typed".to_owned() };
        }
        let cache_dir = config.data.cache_dir.clone().unwrap_or_else(|| {
            files::run_dir(args.run_dir.as_deref(), &args.config.config).join("cache")
        });
        let (classes, data) = (Classes::Both(config.objective.name), &config.data);
        let opened =
            TokenStore::open_or_build(&data.train, &config.model.path, data, classes, &cache_dir);
        match opened {
            Ok((store, _)) => Self {
                lengths: Lengths::of(store.lengths(data.max_length))
                    .expect("a token store has rows, and each has tokens"),
                num_rows: Some(store.len()),
                source: "of the data".to_owned(),
            },
            Err(error) => {
                let half = (data.max_length / 2).max(1);
                Self {
                    lengths: Lengths::uniform(data.max_length - half, half),
                    num_rows: None,
                    source: format!("data.max_length, half of it completion, since {error}"),
                }
            }
        }
    }
}
