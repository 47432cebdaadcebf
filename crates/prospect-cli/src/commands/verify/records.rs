//! The lines of `journal.jsonl`, with the records and the ledger that they carry.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use serde_json::value::RawValue;

use super::lines::Number;

/// One line of the journal.
#[derive(Debug, Deserialize)]
pub(super) struct Line {
    /// Its number, from 1.
    pub(super) sequence: u64,
    /// What kind of event it is.
    pub(super) kind: String,
    /// Step that it is about.
    pub(super) step: u64,
    /// The event in words.
    #[serde(default)]
    pub(super) message: String,
    /// What the run depends on.
    #[serde(default)]
    pub(super) data: Option<Record>,
}

/// What a line puts on record.
#[derive(Debug)]
pub(super) enum Record {
    /// A world is being formed.
    Generation(World),
    /// All its workers are ready.
    Formed(Formed),
    /// The world is given up.
    Regroup(Regroup),
    /// A step is committed.
    Step(Entry),
    /// A checkpoint is durable.
    Checkpoint(Checkpoint),
    /// The run goes back to an earlier step.
    RolledBack(RolledBack),
    /// The run has ended.
    Ended(Ended),
}

/// A world.
#[derive(Debug, Deserialize)]
pub(super) struct World {
    pub(super) generation: u64,
    pub(super) world_size: u32,
    /// Steps committed before it.
    pub(super) committed: u64,
    pub(super) restore: Restore,
    /// Name, process and rank of every worker.
    pub(super) members: Vec<(String, String, u32)>,
}

/// Where the weights of a world come from.
#[derive(Debug, Deserialize)]
pub(super) struct Restore {
    /// `initial`, `checkpoint`, `peer` or `kept`.
    pub(super) from: String,
    /// Directory of the checkpoint, relative to the run directory.
    #[serde(default)]
    pub(super) path: Option<String>,
}

/// A world whose workers are ready.
#[derive(Debug, Deserialize)]
pub(super) struct Formed {
    pub(super) generation: u64,
}

/// A world that is given up.
#[derive(Debug, Deserialize)]
pub(super) struct Regroup {
    /// The generation that begins with it.
    pub(super) generation: u64,
    pub(super) committed: u64,
}

/// A line of the ledger.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Entry {
    pub(super) step: u64,
    /// Epochs completed with this step.
    pub(super) epoch: Number,
    pub(super) attempt: u64,
    pub(super) generation: u64,
    pub(super) world_size: u32,
    /// Rows of the global batch in their order.
    pub(super) rows: Vec<u64>,
    pub(super) pairs_sha256: String,
    pub(super) loss: Bits,
    pub(super) reference_point: Bits,
    pub(super) grad_norm: Bits,
    pub(super) learning_rate: Bits,
}

/// A checkpoint.
#[derive(Debug, Deserialize)]
pub(super) struct Checkpoint {
    pub(super) step: u64,
    /// Digest of its `MANIFEST.json`.
    pub(super) manifest_sha256: String,
    /// Digest of the entries of its manifest but `state.json`.
    pub(super) content_sha256: String,
}

/// A return to an earlier step.
#[derive(Debug, Deserialize)]
pub(super) struct RolledBack {
    pub(super) step: u64,
    /// The attempt that begins with it.
    pub(super) attempt: u64,
}

/// The end of a run.
#[derive(Debug, Deserialize)]
pub(super) struct Ended {
    /// `complete`, `stopped` or `failed`.
    pub(super) phase: String,
}

/// The bits of a number, written as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Bits(pub(super) u64);

impl Bits {
    /// The bits of a number.
    pub(super) fn of(value: f64) -> Self {
        Self(value.to_bits())
    }

    /// The number.
    pub(super) fn value(self) -> f64 {
        f64::from_bits(self.0)
    }
}

impl fmt::Display for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:016x})", self.value(), self.0)
    }
}

impl fmt::Debug for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'de> Deserialize<'de> for Bits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let is_hex = text.len() == 16 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let bits = u64::from_str_radix(&text, 16).ok().filter(|_| is_hex);
        bits.map(Self).ok_or_else(|| {
            D::Error::custom(format_args!("{text:?} stands where 16 hexadecimal digits belong"))
        })
    }
}

/// In two passes over the text: a tagged enum would let the JSON library round the numbers.
impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Tag {
            record: String,
        }
        fn of<'a, T: Deserialize<'a>, E: serde::de::Error>(text: &'a str) -> Result<T, E> {
            serde_json::from_str(text).map_err(E::custom)
        }
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let text = raw.get();
        match of::<Tag, D::Error>(text)?.record.as_str() {
            "generation" => of(text).map(Self::Generation),
            "formed" => of(text).map(Self::Formed),
            "regroup" => of(text).map(Self::Regroup),
            "step" => of(text).map(Self::Step),
            "checkpoint" => of(text).map(Self::Checkpoint),
            "rolled_back" => of(text).map(Self::RolledBack),
            "ended" => of(text).map(Self::Ended),
            other => Err(D::Error::custom(format_args!("no record is named {other:?}"))),
        }
    }
}
