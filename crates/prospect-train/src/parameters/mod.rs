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
#[cfg(test)]
mod tests;
mod weights;

use std::cell::RefCell;
use std::ops::Deref;

use prospect_core::{Mode, TrainConfig};
use prospect_libtorch::ProcessGroup;
use prospect_model::{CausalLm, ModelFiles};
use tch::{Device, Kind, Tensor};

use self::layout::zeros;
pub(crate) use self::layout::{Layout, OwnPart, Place, Slot, narrowed};
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
    offload: bool,
    /// Where the passes compute, and in which type.
    device: Device,
    compute_kind: Kind,
    /// Updates done so far, which AdamW's bias correction needs.
    pub(crate) num_updates: u64,
    /// f32 `[padded_len]` for each segment whose product is under way, where gradients are sharded.
    products: RefCell<Vec<Option<Tensor>>>,
    /// f32, as long as the longest shard: where gradients come to from a GPU whose optimizer is
    /// offloaded.
    staging: Option<Tensor>,
}

/// The parameters of one segment.
pub(crate) struct Segment {
    pub(crate) layout: Layout,
    /// The model's parameters: leaves that require gradients, in the model's order.
    pub(crate) leaves: Vec<Tensor>,
    /// f32 shard, the weights that the optimizer moves. In fp32 the same memory as the shard of what
    /// the passes compute with, unless it is offloaded.
    pub(crate) master: Tensor,
    /// f32 `[padded_len]`; where gradients are sharded a shard.
    pub(crate) gradient: Tensor,
    /// f32 shard, AdamW's first moment.
    pub(crate) exp_avg: Tensor,
    /// f32 shard, AdamW's second moment.
    pub(crate) exp_avg_sq: Tensor,
}

// === impl Parameters ===

impl Parameters {
    /// Without buffers.
    pub(crate) fn new(policy: &CausalLm, config: &TrainConfig) -> Self {
        Self {
            segments: Vec::new(),
            weights: Weights::none(config.mode),
            mode: config.mode,
            offload: config.offload_optimizer,
            device: policy.device(),
            compute_kind: policy.kind(),
            num_updates: 0,
            products: RefCell::default(),
            staging: None,
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
        let state_device = if self.offload { Device::Cpu } else { self.device };
        self.staging = None;
        if state_device != self.device {
            let longest = layouts.iter().map(Layout::shard_len).max().unwrap_or_default();
            self.staging = Some(zeros(longest, Kind::Float, [state_device, self.device])?);
        }
        for (idx, layout) in layouts.into_iter().enumerate() {
            let state = || zeros(layout.shard_len(), Kind::Float, [state_device, self.device]);
            let shares = !self.has_masters() && !self.offload;
            let own = &self.weights.segment(idx).own;
            let master = if shares { own.shallow_clone() } else { state()? };
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
            segment.layout.fill(&segment.master, |slot| Ok(files.tensor(&slot.name)?))?;
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

    /// Copies the weights into what the passes compute with, where that is another tensor: the whole
    /// of it, or this rank's shard, which [`Weights::spread`] then gives to the others.
    pub(crate) fn publish(&mut self) -> Result<(), TrainError> {
        let _no_grad = tch::no_grad_guard();
        if self.has_masters() || self.offload {
            for (idx, segment) in self.segments.iter().enumerate() {
                self.weights.segment(idx).own.shallow_clone().f_copy_(&segment.master)?;
            }
        }
        Ok(())
    }

    /// Whether the passes compute in another type than the weights are kept in.
    pub(crate) fn has_masters(&self) -> bool {
        self.compute_kind != Kind::Float
    }

    /// Where the passes compute.
    pub(crate) fn device(&self) -> Device {
        self.device
    }

    /// Whether the optimizer's state is kept elsewhere than the passes compute.
    pub(crate) fn is_offloaded(&self) -> bool {
        self.offload
    }

    /// This rank's shard of a segment's gradient where the optimizer's state is. Where that is not
    /// where passes compute, it is good until the next one is asked for.
    pub(crate) fn gradient_for_update(&self, segment: &Segment) -> Result<Tensor, TrainError> {
        let gradient = segment.own_gradient()?;
        let Some(staging) = &self.staging else { return Ok(gradient) };
        let mut staged = staging.f_narrow(0, 0, segment.layout.shard_len())?;
        staged.f_copy_(&gradient)?;
        Ok(staged)
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
    pub(crate) fn state(&self) -> [(&'static str, &Tensor); 3] {
        [("", &self.master), ("exp_avg.", &self.exp_avg), ("exp_avg_sq.", &self.exp_avg_sq)]
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
