//! A class weight in TOML: a number or the word "auto".

use serde::{Deserialize, Serialize};

use super::Weight;

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum WeightText {
    Number(f64),
    Word(String),
}

impl Serialize for Weight {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Fixed(value) => WeightText::Number(*value),
            Self::Auto => WeightText::Word("auto".into()),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        match WeightText::deserialize(deserializer) {
            Ok(WeightText::Number(value)) => Ok(Self::Fixed(value)),
            Ok(WeightText::Word(word)) if word == "auto" => Ok(Self::Auto),
            Ok(WeightText::Word(word)) => {
                Err(D::Error::custom(format!("a weight is a number or \"auto\", not {word:?}")))
            }
            Err(_) => Err(D::Error::custom("a weight is a number or \"auto\"")),
        }
    }
}
