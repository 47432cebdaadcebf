//! What a value of the reference model is a function of: the model, how it is computed, and the
//! tokens. Rows and runs are no part of it.

use prospect_core::{ConfigError, Dtype, Sequence};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::CoordinatorError;
use crate::hex::hex;

/// Version of the computation of log-probabilities. To be raised with every change of the engine
/// that moves them by more than another packing of the same sequences does.
const KERNEL: u32 = 2;
/// Hexadecimal digits of a directory's name: 128 bits of the digest.
const NAME_DIGITS: usize = 32;

/// A reference model as it is computed. Its fields are what the first line of a file of values
/// says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scorer {
    /// Digest of the model's configuration and weights.
    weights: String,
    /// Type that it is computed in; never [`Dtype::Auto`].
    dtype: Dtype,
    kernel: u32,
}

/// SHA-256 over scorer, completion start and token ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ValueKey(pub(crate) [u8; 32]);

impl Scorer {
    /// A scorer, unless it is left to the devices what the model is computed in.
    pub(crate) fn try_new(weights: String, dtype: Dtype) -> Option<Self> {
        (dtype != Dtype::Auto).then_some(Self { weights, dtype, kernel: KERNEL })
    }

    /// Where there must be one.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] for [`Dtype::Auto`].
    pub(crate) fn required(weights: String, dtype: Dtype) -> Result<Self, CoordinatorError> {
        Self::try_new(weights, dtype).ok_or_else(|| {
            ConfigError::Invalid {
                key: "model.dtype",
                found: "\"auto\"".to_owned(),
                expected: "values of the reference that are kept for other runs belong to one \
                           type: set model.dtype to \"float32\" or \"bfloat16\""
                    .to_owned(),
            }
            .into()
        })
    }

    /// Name of the directory of its values.
    pub(crate) fn directory_name(&self) -> String {
        let mut name = hex(&self.digest());
        name.truncate(NAME_DIGITS);
        name
    }

    /// The key of the completion's log-probability.
    pub(crate) fn key(&self, sequence: &Sequence) -> ValueKey {
        let mut hasher = Sha256::new_with_prefix(self.digest());
        hasher.update(sequence.completion_start.to_le_bytes());
        let bytes: Vec<u8> =
            sequence.token_ids.iter().flat_map(|token_id| token_id.to_le_bytes()).collect();
        hasher.update(bytes);
        ValueKey(hasher.finalize().into())
    }

    fn digest(&self) -> [u8; 32] {
        let Self { weights, dtype, kernel } = self;
        Sha256::digest(format!("{weights}\n{dtype:?}\n{kernel}\n")).into()
    }
}
