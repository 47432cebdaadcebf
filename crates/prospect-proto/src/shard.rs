//! Shards of work, to and from the wire. A shard that comes out of here is
//! consistent: every index is in range and every sequence is computed once.

use prospect_core::{
    Label, Microbatch, RowId, Sequence, Shard, ShardKind, ShardPart, Step, Target,
};

use crate::error::{require, require_finite};
use crate::report::part_list;
use crate::{MessageError, v1};

/// Reads a shard kind.
pub(crate) fn parse_kind(number: i32, field: &str) -> Result<ShardKind, MessageError> {
    match v1::ShardKind::try_from(number) {
        Ok(v1::ShardKind::Train) => Ok(ShardKind::Train),
        Ok(v1::ShardKind::Eval) => Ok(ShardKind::Eval),
        Ok(v1::ShardKind::Unspecified) | Err(_) => {
            Err(MessageError::new(field, format!("{number} is no kind of shard")))
        }
    }
}

impl From<ShardKind> for v1::ShardKind {
    fn from(kind: ShardKind) -> Self {
        match kind {
            ShardKind::Train => Self::Train,
            ShardKind::Eval => Self::Eval,
        }
    }
}

impl From<Sequence> for v1::Sequence {
    fn from(sequence: Sequence) -> Self {
        Self {
            prompt_row: sequence.prompt_row.0,
            completion_row: sequence.completion_row.0,
            token_ids: sequence.token_ids,
            completion_start: sequence.completion_start,
            reference_log_prob: sequence.reference_log_prob,
        }
    }
}

impl TryFrom<v1::Sequence> for Sequence {
    type Error = MessageError;

    fn try_from(sequence: v1::Sequence) -> Result<Self, MessageError> {
        let num_tokens = sequence.token_ids.len();
        let start = sequence.completion_start;
        require(start >= 1, "completion_start", || "it is 0: a prompt token is needed".to_owned())?;
        require((start as usize) < num_tokens, "completion_start", || {
            format!("{start} leaves no completion in {num_tokens} tokens")
        })?;
        if let Some(value) = sequence.reference_log_prob {
            require_finite(value, "reference_log_prob")?;
        }
        Ok(Self {
            prompt_row: RowId(sequence.prompt_row),
            completion_row: RowId(sequence.completion_row),
            token_ids: sequence.token_ids,
            completion_start: start,
            reference_log_prob: sequence.reference_log_prob,
        })
    }
}

impl From<Target> for v1::Target {
    fn from(target: Target) -> Self {
        Self {
            sequence: Some(target.sequence.into()),
            desirable: target.label.is_desirable(),
            weight: target.weight,
        }
    }
}

impl TryFrom<v1::Target> for Target {
    type Error = MessageError;

    fn try_from(target: v1::Target) -> Result<Self, MessageError> {
        let sequence = target.sequence.ok_or_else(|| MessageError::missing("sequence"))?;
        let weight = target.weight;
        require(weight.is_finite() && weight >= 0.0, "weight", || {
            format!("{weight} is not a number of 0 or above")
        })?;
        Ok(Self {
            sequence: sequence.try_into().map_err(|e: MessageError| e.within("sequence"))?,
            label: Label::from(target.desirable),
            weight,
        })
    }
}

impl From<Shard> for v1::Shard {
    fn from(shard: Shard) -> Self {
        Self {
            step: shard.step.0,
            kind: v1::ShardKind::from(shard.kind).into(),
            eval_index: shard.eval_index,
            epoch: shard.epoch,
            num_examples_global: shard.num_examples_global,
            num_pairs_global: shard.num_pairs_global,
            learning_rate: shard.learning_rate,
            checkpoint_after: shard.checkpoint_after,
            parts: shard.parts.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<ShardPart> for v1::ShardPart {
    fn from(part: ShardPart) -> Self {
        Self {
            part: part.part,
            targets: part.targets.into_iter().map(Into::into).collect(),
            mismatched: part.mismatched.into_iter().map(Into::into).collect(),
            target_microbatches: microbatches(part.target_microbatches),
            mismatched_microbatches: microbatches(part.mismatched_microbatches),
        }
    }
}

impl TryFrom<v1::ShardPart> for ShardPart {
    type Error = MessageError;

    fn try_from(part: v1::ShardPart) -> Result<Self, MessageError> {
        let targets: Vec<Target> = list(part.targets, "targets")?;
        let mismatched: Vec<Sequence> = list(part.mismatched, "mismatched")?;
        Ok(Self {
            part: part.part,
            target_microbatches: parse_microbatches(
                part.target_microbatches,
                targets.len(),
                "target_microbatches",
            )?,
            mismatched_microbatches: parse_microbatches(
                part.mismatched_microbatches,
                mismatched.len(),
                "mismatched_microbatches",
            )?,
            targets,
            mismatched,
        })
    }
}

impl TryFrom<v1::Shard> for Shard {
    type Error = MessageError;

    fn try_from(shard: v1::Shard) -> Result<Self, MessageError> {
        let kind = parse_kind(shard.kind, "kind")?;
        require(kind == ShardKind::Eval || shard.step > 0, "step", || {
            "steps of training count from 1".to_owned()
        })?;
        require_finite(shard.epoch, "epoch")?;
        require_finite(shard.learning_rate, "learning_rate")?;
        let parts = part_list(shard.parts, |part: &ShardPart| part.part)?;
        let num_targets: usize = parts.iter().map(|part| part.targets.len()).sum();
        let num_mismatched: usize = parts.iter().map(|part| part.mismatched.len()).sum();
        require(num_targets <= shard.num_examples_global as usize, "num_examples_global", || {
            format!("{} is less than the shard's {num_targets}", shard.num_examples_global)
        })?;
        require(num_mismatched <= shard.num_pairs_global as usize, "num_pairs_global", || {
            format!("{} is less than the shard's {num_mismatched}", shard.num_pairs_global)
        })?;
        Ok(Self {
            step: Step(shard.step),
            kind,
            eval_index: shard.eval_index,
            epoch: shard.epoch,
            num_examples_global: shard.num_examples_global,
            num_pairs_global: shard.num_pairs_global,
            learning_rate: shard.learning_rate,
            checkpoint_after: shard.checkpoint_after,
            parts,
        })
    }
}

/// Converts a list; an error names the place in it.
pub(crate) fn list<A, B>(items: Vec<A>, field: &str) -> Result<Vec<B>, MessageError>
where
    B: TryFrom<A, Error = MessageError>,
{
    let convert = |(idx, item): (usize, A)| {
        B::try_from(item).map_err(|error| error.within(&format!("{field}[{idx}]")))
    };
    items.into_iter().enumerate().map(convert).collect()
}

fn microbatches(list: Vec<Microbatch>) -> Vec<v1::Microbatch> {
    list.into_iter().map(|indices| v1::Microbatch { indices }).collect()
}

/// Reads microbatches over `num_sequences` sequences, each of which has to be in exactly one.
fn parse_microbatches(
    list: Vec<v1::Microbatch>,
    num_sequences: usize,
    field: &str,
) -> Result<Vec<Microbatch>, MessageError> {
    let mut seen = vec![false; num_sequences];
    for (idx, microbatch) in list.iter().enumerate() {
        for &index in &microbatch.indices {
            let place = || format!("{field}[{idx}].indices");
            match seen.get_mut(index as usize) {
                None => {
                    let problem = format!("{index} is out of range for {num_sequences} sequences");
                    return Err(MessageError::new(place(), problem));
                }
                Some(true) => {
                    let problem = format!("sequence {index} is in two microbatches");
                    return Err(MessageError::new(place(), problem));
                }
                Some(first) => *first = true,
            }
        }
    }
    if let Some(absent) = seen.iter().position(|seen| !seen) {
        return Err(MessageError::new(field, format!("sequence {absent} is in no microbatch")));
    }
    Ok(list.into_iter().map(|microbatch| microbatch.indices).collect())
}
