//! The rotary embedding's part of the configuration, in the old form (`rope_theta` and
//! `rope_scaling`) and in the form of transformers 5 (`rope_parameters`).

use serde_json::{Value, json};

use super::keys::Keys;
use crate::error::ShapeError;

const THETA_ADVICE: &str = "the base of the rotary frequencies, 10000.0 for Llama 2";

/// How positions turn queries and keys.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies, `rope_theta`.
    pub theta: f64,
    /// Rescaling of the low frequencies, if the model has one.
    pub scaling: Option<Llama3Scaling>,
}

/// The rescaling of Llama 3.1 for longer contexts, `rope_type` "llama3".
#[derive(Clone, Debug, PartialEq)]
pub struct Llama3Scaling {
    /// Divisor of the low frequencies.
    pub factor: f64,
    /// Wavelengths above `original_max_positions / low_freq_factor` are divided.
    pub low_freq_factor: f64,
    /// Wavelengths below `original_max_positions / high_freq_factor` are kept.
    pub high_freq_factor: f64,
    /// The context length before the rescaling.
    pub original_max_positions: i64,
}

impl RopeConfig {
    /// Takes the keys of both forms; they must not contradict each other.
    pub(super) fn take(keys: &mut Keys<'_>) -> Result<Self, ShapeError> {
        let outer_theta = keys.take_number("rope_theta")?;
        let scaling = keys.take("rope_scaling");
        let parameters = keys.take("rope_parameters");
        let (section, value) = match (scaling, parameters) {
            (None, None) => {
                let theta = outer_theta.ok_or_else(|| keys.missing("rope_theta", THETA_ADVICE))?;
                return Ok(Self { theta, scaling: None });
            }
            (Some(_), Some(value)) => {
                let expected = "rope_scaling is there too; keep one of the two";
                return Err(keys.bad("rope_parameters", &value, expected));
            }
            (Some(value), None) => ("rope_scaling", value),
            (None, Some(value)) => ("rope_parameters", value),
        };
        let Value::Object(map) = value else {
            return Err(keys.bad(section, &value, "must be an object"));
        };
        let mut inner = Keys::new(keys.path(), &format!("{section}."), map);
        let rope = Self::take_section(&mut inner, outer_theta)?;
        inner.finish()?;
        Ok(rope)
    }

    fn take_section(keys: &mut Keys<'_>, outer_theta: Option<f64>) -> Result<Self, ShapeError> {
        let inner_theta = keys.take_number("rope_theta")?;
        let theta = match (inner_theta, outer_theta) {
            (Some(inner), Some(outer)) if inner != outer => {
                let expected = format!("rope_theta beside it is {outer}; keep one of the two");
                return Err(keys.bad("rope_theta", &json!(inner), &expected));
            }
            (Some(theta), _) | (None, Some(theta)) => theta,
            (None, None) => return Err(keys.missing("rope_theta", THETA_ADVICE)),
        };
        keys.expect_neutral(
            "partial_rotary_factor",
            &[json!(1), json!(1.0)],
            "only whole heads are turned: it must be 1.0",
        )?;
        let kind = keys.take_text("rope_type")?;
        let old_kind = keys.take_text("type")?;
        let kind = kind
            .or(old_kind)
            .ok_or_else(|| keys.missing("rope_type", "\"default\" or \"llama3\""))?;
        let scaling = match kind.as_str() {
            "default" => None,
            "llama3" => Some(Llama3Scaling::take(keys)?),
            _ => {
                let expected = "only \"default\" and \"llama3\" are supported";
                return Err(keys.bad("rope_type", &json!(kind), expected));
            }
        };
        Ok(Self { theta, scaling })
    }
}

impl Llama3Scaling {
    fn take(keys: &mut Keys<'_>) -> Result<Self, ShapeError> {
        let low = keys.require_number("low_freq_factor", "1.0 for Llama 3.1")?;
        let high = keys.require_number("high_freq_factor", "4.0 for Llama 3.1")?;
        if high <= low {
            let expected = format!("must be above low_freq_factor, which is {low}");
            return Err(keys.bad("high_freq_factor", &json!(high), &expected));
        }
        Ok(Self {
            factor: keys.require_number("factor", "8.0 for Llama 3.1")?,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_positions: keys
                .require_count("original_max_position_embeddings", "8192 for Llama 3.1")?,
        })
    }
}
