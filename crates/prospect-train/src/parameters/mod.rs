//! Weights, gradients and optimizer state, in flat buffers: one set per segment of the chain, so
//! that reductions and updates touch few large tensors. The model's parameters are views into
//! them.
//!
//! | mode | what passes compute with | gradient | what the optimizer moves, and its moments |
//! | --- | --- | --- | --- |
//! | replicated | whole | whole | whole |
//! | sharded optimizer | whole | whole | shard |
//! | fully sharded | whole while it is visited, else shard | whole during its product, else shard | shard |

mod layout;
mod numbers;
mod offload;
#[cfg(test)]
mod tests;
mod weights;

use std::cell::RefCell;
use std::ops::{Deref, Range};

use prospect_core::{Mode, TrainConfig};
use prospect_libtorch::ProcessGroup;
use prospect_model::{CausalLm, ModelFiles};
use tch::{Device, Kind, Tensor};

pub(crate) use self::layout::{Layout, OwnPart, Place, Slot, narrowed};
pub(crate) use self::numbers::{Numbers, piece_len, pieces};
pub(crate) use self::offload::Offload;
pub(crate) use self::weights::Weights;
use crate::TrainError;
use crate::progress::Progress;

/// All segments of the policy.
pub(crate) struct Parameters {
    pub(crate) segments: Vec<Segment>,
    /// What the passes compute with.
    pub(crate) weights: Weights,
    pub(crate) mode: Mode,
    /// The optimizer's state is in main memory, whatever the device.
    is_offloaded: bool,
    /// Where the passes compute, and in which type.
    device: Device,
    compute_kind: Kind,
    /// Updates done so far, which AdamW's bias correction needs.
    pub(crate) num_updates: u64,
    /// f32 `[padded_len]` for each segment whose product is under way, where gradients are sharded.
    products: RefCell<Vec<Option<Tensor>>>,
    /// The ways between passes and an optimizer that is offloaded.
    pub(crate) offload: Option<Offload>,
    /// Elements of a shard that are updated at a time, where they have to be made ready for it.
    pub(crate) piece_len: i64,
}

/// The parameters of one segment.
pub(crate) struct Segment {
    pub(crate) layout: Layout,
    /// The model's parameters: leaves that require gradients, in the model's order.
    pub(crate) leaves: Vec<Tensor>,
    /// Shard of the fp32 weights that the optimizer moves. Unless it is offloaded, in the same memory
    /// as the shard of what the passes compute with, in bf16 with what those lack beside it.
    pub(crate) master: Numbers,
    /// f32 `[padded_len]`; where gradients are sharded a shard.
    pub(crate) gradient: Tensor,
    /// f32 shard, AdamW's first moment.
    pub(crate) exp_avg: Tensor,
    /// f32 shard, AdamW's second moment.
    pub(crate) exp_avg_sq: Tensor,
}

/// A part of a segment's shard.
pub(crate) struct Piece<'a> {
    pub(crate) segment: &'a Segment,
    /// Elements of the shard.
    pub(crate) range: Range<i64>,
    /// Those of what passes compute with.
    pub(crate) own: Tensor,
}

// === impl Parameters ===

impl Parameters {
    /// Without buffers.
    pub(crate) fn new(policy: &CausalLm, config: &TrainConfig) -> Self {
        Self {
            segments: Vec::new(),
            weights: Weights::none(config.mode),
            mode: config.mode,
            is_offloaded: config.offload_optimizer,
            device: policy.device(),
            compute_kind: policy.kind(),
            num_updates: 0,
            products: RefCell::default(),
            offload: None,
            piece_len: if config.offload_optimizer {
                offload::PIECE
            } else {
                piece_len(policy.device())
            },
        }
    }

    /// Makes buffers of zeros as the rank at `place` holds them for the parameters of `policy`, which
    /// become views into them. What was there before is lost.
    pub(crate) fn place(&mut self, policy: &mut CausalLm, place: Place) -> Result<(), TrainError> {
        let _no_grad = tch::no_grad_guard();
        let layouts: Vec<Layout> = (0..policy.num_segments())
            .map(|idx| Layout::new(&policy.segment_parameters(idx), place))
            .collect();
        // Before the buffers that take the place of these.
        self.segments.clear();
        self.weights = Weights::none(self.mode);
        self.weights = Weights::place(policy, &layouts, self.mode, true)?;
        self.products = RefCell::new(layouts.iter().map(|_| None).collect());
        let state_device = if self.is_offloaded { Device::Cpu } else { self.device };
        self.offload = None;
        if self.is_offloaded {
            let longest = layouts.iter().map(Layout::shard_len).max().unwrap_or_default();
            let len = longest.min(self.piece_len);
            self.offload = Some(Offload::new(len, self.compute_kind, self.device)?);
        }
        for (idx, layout) in layouts.into_iter().enumerate() {
            let state = || Tensor::f_zeros([layout.shard_len()], (Kind::Float, state_device));
            let own = &self.weights.segment(idx).own;
            let master = if self.is_offloaded {
                Numbers::Whole(offload::host_zeros(layout.shard_len(), self.device)?)
            } else if self.has_masters() {
                Numbers::beside(own)?
            } else {
                Numbers::Whole(own.shallow_clone())
            };
            let num_gradients = match self.mode {
                Mode::FullySharded => layout.shard_len(),
                Mode::Replicated | Mode::ShardedOptimizer => layout.padded_len(),
            };
            self.segments.push(Segment {
                leaves: policy.segment_parameters(idx).into_iter().map(|p| p.tensor).collect(),
                master,
                gradient: Tensor::f_zeros([num_gradients], (Kind::Float, self.device))?,
                exp_avg: state()?,
                exp_avg_sq: state()?,
                layout,
            });
        }
        Ok(())
    }

    /// Which shard of the buffers this rank holds, if there are buffers.
    pub(crate) fn placed(&self) -> Option<Place> {
        self.segments.first().map(|segment| segment.layout.place())
    }

    /// Copies this rank's weights out of a model's files and forgets all updates. What the passes
    /// compute with follows from [`publish`](Self::publish).
    pub(crate) fn fill(
        &mut self,
        files: &ModelFiles,
        progress: &Progress,
    ) -> Result<(), TrainError> {
        let _no_grad = tch::no_grad_guard();
        for segment in &mut self.segments {
            let source = |slot: &Slot| Ok(files.tensor(&slot.name)?);
            let master = &segment.master;
            segment
                .layout
                .hand_out(source, |range, values| master.narrowed(range)?.write(values))?;
            let _ = segment.exp_avg.f_zero_()?;
            let _ = segment.exp_avg_sq.f_zero_()?;
            progress.tick();
        }
        self.num_updates = 0;
        Ok(())
    }

    /// Sets all gradients to zero.
    pub(crate) fn zero_gradients(&mut self) -> Result<(), TrainError> {
        let _no_grad = tch::no_grad_guard();
        for segment in &mut self.segments {
            let _ = segment.gradient.f_zero_()?;
        }
        self.products.get_mut().iter_mut().for_each(|product| *product = None);
        Ok(())
    }

    /// Adds gradients of a segment's first parameters, in the model's order.
    pub(crate) fn accumulate(
        &self,
        segment: usize,
        gradients: Vec<Option<Tensor>>,
    ) -> Result<(), TrainError> {
        let _no_grad = tch::no_grad_guard();
        let whole = self.whole_gradient(segment)?;
        for (slot, gradient) in self.segments[segment].slots.iter().zip(gradients) {
            if let Some(gradient) = gradient {
                let _ = slot.view(&whole)?.f_add_(&gradient)?;
            }
        }
        Ok(())
    }

    /// Gradient of the embedding, f32 `[V, H]`.
    pub(crate) fn embedding_gradient(&self) -> Result<Tensor, TrainError> {
        self.segments[0].slots[0].view(&self.whole_gradient(0)?)
    }

    /// Gradient of the head's weight, f32 `[V, H]`: the embedding's where they are one.
    pub(crate) fn head_gradient(&self) -> Result<Tensor, TrainError> {
        let idx = self.segments.len() - 1;
        match self.segments[idx].slots.get(1) {
            Some(head) => head.view(&self.whole_gradient(idx)?),
            None => self.embedding_gradient(),
        }
    }

    /// Takes the whole gradient of a pass from a segment, where gradients are sharded.
    pub(crate) fn take_product(&self, segment: usize) -> Result<Tensor, TrainError> {
        let product = self.whole_gradient(segment)?;
        self.products.borrow_mut()[segment] = None;
        Ok(product)
    }

    /// Copies the weights into what the passes compute with, where those are elsewhere: the whole of
    /// it, or this rank's shard, which [`Weights::spread`] then gives to the others.
    pub(crate) fn publish(&mut self) -> Result<(), TrainError> {
        let Some(offload) = &self.offload else { return Ok(()) };
        offload.begin()?;
        for piece in self.pieces(self.piece_len)? {
            offload.send(&piece.master()?, &piece.own)?;
        }
        offload.settle()
    }

    /// All shards, cut into pieces of at most so many elements.
    pub(crate) fn pieces(&self, most: i64) -> Result<Vec<Piece<'_>>, TrainError> {
        let mut cut = Vec::new();
        for (idx, segment) in self.segments.iter().enumerate() {
            for range in pieces(segment.shard_len(), most) {
                let own = narrowed(&self.weights.segment(idx).own, &range)?;
                cut.push(Piece { segment, range, own });
            }
        }
        Ok(cut)
    }

    /// Whether the passes compute in another type than the weights are kept in.
    pub(crate) fn has_masters(&self) -> bool {
        self.compute_kind != Kind::Float
    }

    /// Where the passes compute.
    pub(crate) fn device(&self) -> Device {
        self.device
    }

    /// The whole buffer of this segment's kind that `shard` is this rank's part of, where passes
    /// compute. Every rank calls this, in sharded modes in a world.
    pub(crate) fn gathered(
        &self,
        segment: usize,
        shard: &Tensor,
        group: Option<&ProcessGroup>,
    ) -> Result<Tensor, TrainError> {
        match (self.mode, group) {
            (Mode::Replicated, _) => Ok(shard.shallow_clone()),
            (_, Some(group)) => self.segments[segment].layout.gather(shard, group, self.device),
            (_, None) => Err(TrainError::NoWorld),
        }
    }

    fn whole_gradient(&self, segment: usize) -> Result<Tensor, TrainError> {
        if self.mode != Mode::FullySharded {
            return Ok(self.segments[segment].gradient.shallow_clone());
        }
        let mut products = self.products.borrow_mut();
        if let Some(product) = &products[segment] {
            return Ok(product.shallow_clone());
        }
        let size = self.segments[segment].layout.padded_len();
        let product = Tensor::f_zeros([size], (Kind::Float, self.device))?;
        products[segment] = Some(product.shallow_clone());
        Ok(product)
    }
}

// === impl Segment ===

impl Segment {
    /// What the optimizer works on, and the prefix of its tensors' names.
    pub(crate) fn state(&self) -> [(&'static str, Numbers); 3] {
        let [exp_avg, exp_avg_sq] = [&self.exp_avg, &self.exp_avg_sq].map(Tensor::shallow_clone);
        [
            ("", self.master.shallow_clone()),
            ("exp_avg.", exp_avg.into()),
            ("exp_avg_sq.", exp_avg_sq.into()),
        ]
    }

    /// The memory of [`state`](Self::state), as i32: masters, in halves two buffers, and moments.
    pub(crate) fn bits(&self) -> Result<Vec<Tensor>, TrainError> {
        let moments = [&self.exp_avg, &self.exp_avg_sq];
        let buffers = self.master.buffers().into_iter().chain(moments);
        buffers.map(|buffer| Ok(buffer.f_view_dtype(Kind::Int)?)).collect()
    }

    /// This rank's shard of the gradient, which its optimizer takes.
    pub(crate) fn own_gradient(&self) -> Result<Tensor, TrainError> {
        if self.gradient.size1()? == self.layout.shard_len() {
            return Ok(self.gradient.shallow_clone());
        }
        self.layout.shard_of(&self.gradient)
    }
}

impl Deref for Segment {
    type Target = Layout;

    fn deref(&self) -> &Layout {
        &self.layout
    }
}

// === impl Piece ===

impl Piece<'_> {
    /// Elements of it.
    pub(crate) fn len(&self) -> i64 {
        self.range.end - self.range.start
    }

    /// The fp32 weights.
    pub(crate) fn master(&self) -> Result<Numbers, TrainError> {
        self.segment.master.narrowed(&self.range)
    }

    /// The gradient, where passes compute.
    pub(crate) fn gradient(&self) -> Result<Tensor, TrainError> {
        narrowed(&self.segment.own_gradient()?, &self.range)
    }

    /// Both moments.
    pub(crate) fn moments(&self) -> Result<[Tensor; 2], TrainError> {
        let Segment { exp_avg, exp_avg_sq, .. } = self.segment;
        Ok([narrowed(exp_avg, &self.range)?, narrowed(exp_avg_sq, &self.range)?])
    }

    /// What of `numbers`, which belong to this piece, decays, and what does not.
    pub(crate) fn split(&self, numbers: &Tensor) -> Result<[Tensor; 2], TrainError> {
        self.segment.split(numbers, &self.range)
    }
}
