//! Where the parameters of a segment lie in its flat buffers, and which part of them a rank owns.
//!
//! A buffer holds first the parameters that decay, then the others. A parameter begins at a
//! multiple of 64 elements; the gaps hold zeros, and stay zero through every update. None of that
//! depends on the world. In a world of W ranks that share the buffers, each rank's shard has
//! `S = ceil(len / W / 64) · 64` elements: rank r owns `r·S .. min((r + 1)·S, len)`, which may be
//! nothing, and what its shard holds beyond is zero.

use std::fmt;
use std::ops::Range;

use prospect_libtorch::{ProcessGroup, copy_rounded};
use prospect_model::NamedParameter;
use tch::{Device, Tensor};

use crate::TrainError;

/// Elements that a parameter's place and a shard's length are multiples of: 128 bytes in the smallest
/// type, so that kernels see the alignment of a fresh allocation.
const ALIGNMENT: i64 = 64;

/// A rank among those that share buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) rank: usize,
    pub(crate) world_size: usize,
}

/// Where a parameter lies in its segment's whole buffer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Slot {
    pub(crate) name: String,
    pub(crate) shape: Vec<i64>,
    pub(crate) offset: i64,
    pub(crate) numel: i64,
}

/// The layout of one segment's buffers, and a rank's shard of them.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// In the model's order.
    pub(crate) slots: Vec<Slot>,
    /// Elements at the front that decay.
    num_decaying: i64,
    len: i64,
    shard_len: i64,
    place: Place,
}

/// What a rank owns of one parameter.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OwnPart<'a> {
    pub(crate) slot_idx: usize,
    pub(crate) slot: &'a Slot,
    /// Elements of the flattened parameter.
    pub(crate) of_parameter: Range<i64>,
    /// Where they lie in a buffer that holds the rank's shard.
    pub(crate) of_shard: Range<i64>,
}

// === impl Place ===

impl Place {
    /// Of one who shares with nobody.
    pub(crate) const ALONE: Self = Self { rank: 0, world_size: 1 };

    /// This rank among all of a group.
    pub(crate) fn of(group: &ProcessGroup) -> Self {
        Self { rank: group.rank(), world_size: group.world_size() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of {}", self.rank, self.world_size)
    }
}

// === impl Slot ===

impl Slot {
    /// This parameter's place in a whole buffer of its segment, in the parameter's shape.
    pub(crate) fn view(&self, flat: &Tensor) -> Result<Tensor, TrainError> {
        Ok(flat.f_narrow(0, self.offset, self.numel)?.f_view(self.shape.as_slice())?)
    }
}

// === impl Layout ===

impl Layout {
    /// Lays out parameters and cuts their buffers among ranks.
    pub(crate) fn new(parameters: &[NamedParameter], place: Place) -> Self {
        let mut slots: Vec<Option<Slot>> = parameters.iter().map(|_| None).collect();
        let (mut len, mut num_decaying) = (0, 0);
        for decaying in [true, false] {
            for (slot, parameter) in slots.iter_mut().zip(parameters) {
                if parameter.decay == decaying {
                    let numel = parameter.tensor.numel() as i64;
                    let (name, shape) = (parameter.name.clone(), parameter.tensor.size());
                    *slot = Some(Slot { name, shape, offset: len, numel });
                    len += align(numel);
                }
            }
            if decaying {
                num_decaying = len;
            }
        }
        let world_size = place.world_size as i64;
        let shard_len = align((len + world_size - 1) / world_size);
        let slots = slots.into_iter().flatten().collect();
        Self { slots, num_decaying, len, shard_len, place }
    }

    /// The same layout, about the shard of another rank.
    pub(crate) fn at(&self, place: Place) -> Self {
        let world_size = place.world_size as i64;
        let shard_len = align((self.len + world_size - 1) / world_size);
        Self { place, shard_len, ..self.clone() }
    }

    /// The rank whose shard it is about.
    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// Elements of the whole buffer.
    pub(crate) fn len(&self) -> i64 {
        self.len
    }

    /// Elements of this rank's shard and of every other's.
    pub(crate) fn shard_len(&self) -> i64 {
        self.shard_len
    }

    /// Elements of all shards together, at least as many as the whole buffer has.
    pub(crate) fn padded_len(&self) -> i64 {
        self.shard_len * self.place.world_size as i64
    }

    /// Elements of the whole buffer that this rank owns.
    pub(crate) fn own(&self) -> Range<i64> {
        let start = self.shard_start();
        start.min(self.len)..(start + self.shard_len).min(self.len)
    }

    /// What this rank owns of each parameter that it owns something of.
    pub(crate) fn own_parts(&self) -> impl Iterator<Item = OwnPart<'_>> {
        let own = self.own();
        self.slots.iter().enumerate().filter_map(move |(slot_idx, slot)| {
            let start = slot.offset.max(own.start);
            let end = (slot.offset + slot.numel).min(own.end);
            (start < end).then(|| OwnPart {
                slot_idx,
                slot,
                of_parameter: start - slot.offset..end - slot.offset,
                of_shard: start - self.shard_start()..end - self.shard_start(),
            })
        })
    }

    /// Copies what this rank owns out of whole parameters, which `source` gives, into `shard`.
    pub(crate) fn fill(
        &self,
        shard: &Tensor,
        source: impl FnMut(&Slot) -> Result<Tensor, TrainError>,
    ) -> Result<(), TrainError> {
        self.hand_out(source, |range, values| Ok(copy_rounded(&narrowed(shard, range)?, values)?))
    }

    /// Hands out what this rank owns of whole parameters, which `source` gives: elements of its
    /// shard, and flat what belongs there.
    pub(crate) fn hand_out(
        &self,
        mut source: impl FnMut(&Slot) -> Result<Tensor, TrainError>,
        mut store: impl FnMut(&Range<i64>, &Tensor) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let _no_grad = tch::no_grad_guard();
        for part in self.own_parts() {
            let found = source(part.slot)?.f_reshape([-1])?;
            store(&part.of_shard, &narrowed(&found, &part.of_parameter)?)?;
        }
        Ok(())
    }

    /// Of the elements `range` of a shard, which `piece` holds, those that decay and those that do
    /// not.
    pub(crate) fn split(
        &self,
        piece: &Tensor,
        range: &Range<i64>,
    ) -> Result<[Tensor; 2], TrainError> {
        let border = (self.num_decaying - self.shard_start()).clamp(range.start, range.end);
        let len = range.end - range.start;
        let num_decaying = border - range.start;
        Ok([narrowed(piece, &(0..num_decaying))?, narrowed(piece, &(num_decaying..len))?])
    }

    /// This rank's shard of a buffer that holds all shards.
    pub(crate) fn shard_of(&self, all: &Tensor) -> Result<Tensor, TrainError> {
        Ok(all.f_narrow(0, self.shard_start(), self.shard_len)?)
    }

    /// The whole buffer whose shard this rank has, on `device`, where the group's tensors are. Every
    /// rank calls this.
    pub(crate) fn gather(
        &self,
        shard: &Tensor,
        group: &ProcessGroup,
        device: Device,
    ) -> Result<Tensor, TrainError> {
        let _no_grad = tch::no_grad_guard();
        if self.place.world_size == 1 {
            return Ok(shard.f_narrow(0, 0, self.len())?);
        }
        let shard = shard.f_to_device(device)?;
        let mut all = Tensor::f_empty([self.padded_len()], (shard.f_kind()?, device))?;
        group.all_gather(&mut all, &shard)?.wait()?;
        Ok(all.f_narrow(0, 0, self.len())?)
    }

    fn shard_start(&self) -> i64 {
        self.place.rank as i64 * self.shard_len
    }
}

/// Elements `range` of a flat tensor.
pub(crate) fn narrowed(flat: &Tensor, range: &Range<i64>) -> Result<Tensor, TrainError> {
    Ok(flat.f_narrow(0, range.start, range.end - range.start)?)
}

fn align(len: i64) -> i64 {
    (len + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT
}
