//! Values in TOML that are a number or the word "auto".

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{MicrobatchTokens, Weight};

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum OrAuto<T> {
    Number(T),
    Word(String),
}

impl<T: Serialize> OrAuto<T> {
    fn of(number: Option<T>) -> Self {
        number.map_or_else(|| Self::Word("auto".into()), Self::Number)
    }
}

/// The number, or none for "auto". `what` names the value in errors.
fn number_or_auto<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
    what: &str,
) -> Result<Option<T>, D::Error> {
    use serde::de::Error;
    match OrAuto::deserialize(deserializer) {
        Ok(OrAuto::Number(number)) => Ok(Some(number)),
        Ok(OrAuto::Word(word)) if word == "auto" => Ok(None),
        Ok(OrAuto::Word(word)) => {
            Err(D::Error::custom(format!("{what} or \"auto\", not {word:?}")))
        }
        Err(_) => Err(D::Error::custom(format!("{what} or \"auto\""))),
    }
}

impl Serialize for Weight {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let number = match self {
            Self::Fixed(value) => Some(*value),
            Self::Auto => None,
        };
        OrAuto::of(number).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = number_or_auto(deserializer, "a weight is a number")?;
        Ok(number.map_or(Self::Auto, Self::Fixed))
    }
}

impl MicrobatchTokens {
    /// The number, where it is known.
    pub fn tokens(self) -> Option<u32> {
        match self {
            Self::Fixed(tokens) => Some(tokens),
            Self::Auto => None,
        }
    }
}

impl Serialize for MicrobatchTokens {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        OrAuto::of(self.tokens()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for MicrobatchTokens {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = number_or_auto(deserializer, "a budget is a whole number of tokens")?;
        Ok(number.map_or(Self::Auto, Self::Fixed))
    }
}
