//! Weights, gradients and optimizer state, in flat buffers: one set per segment of the chain, so
//! that reductions and updates touch few large tensors. The model's parameters are views into
//! them.
//!
//! Each buffer holds first the parameters that decay, then the others. A parameter begins at a
//! multiple of 64 elements; the gaps hold zeros, and stay zero through every update.

use prospect_model::CausalLm;
use tch::{Kind, Tensor};

use crate::TrainError;

/// Elements that a parameter's place is a multiple of: 128 bytes in the smallest type, so that
/// kernels see the alignment of a fresh allocation.
const ALIGNMENT: i64 = 64;

/// All segments of the policy.
pub(crate) struct Parameters {
    pub(crate) segments: Vec<Segment>,
    /// What the passes compute with.
    compute_kind: Kind,
    /// Updates done so far, which AdamW's bias correction needs.
    pub(crate) num_updates: u64,
}

/// The parameters of one segment.
pub(crate) struct Segment {
    /// In the model's order.
    pub(crate) slots: Vec<Slot>,
    /// The model's parameters: leaves that require gradients, in the model's order.
    pub(crate) leaves: Vec<Tensor>,
    /// What the passes compute with; in fp32 the same tensor as `master`.
    compute: Tensor,
    /// f32, the weights that the optimizer moves.
    pub(crate) master: Tensor,
    /// f32.
    pub(crate) gradient: Tensor,
    /// f32, AdamW's first moment.
    pub(crate) exp_avg: Tensor,
    /// f32, AdamW's second moment.
    pub(crate) exp_avg_sq: Tensor,
    /// Elements at the front that decay.
    pub(crate) num_decaying: i64,
}

/// Where a parameter lies in its segment's buffers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Slot {
    pub(crate) name: String,
    pub(crate) shape: Vec<i64>,
    offset: i64,
    numel: i64,
}

// === impl Parameters ===

impl Parameters {
    /// Moves the policy's parameters into flat buffers. `exact` holds the same parameters in
    /// fp32 where the policy computes in another type.
    pub(crate) fn adopt(
        policy: &mut CausalLm,
        exact: Option<&CausalLm>,
    ) -> Result<Self, TrainError> {
        let _no_grad = tch::no_grad_guard();
        let segments = (0..policy.num_segments())
            .map(|idx| Segment::adopt(policy, exact, idx))
            .collect::<Result<_, _>>()?;
        Ok(Self { segments, compute_kind: policy.kind(), num_updates: 0 })
    }

    /// Sets all gradients to zero.
    pub(crate) fn zero_gradients(&mut self) -> Result<(), TrainError> {
        let _no_grad = tch::no_grad_guard();
        for segment in &mut self.segments {
            let _ = segment.gradient.f_zero_()?;
        }
        Ok(())
    }

    /// Adds gradients of a segment's first parameters, in the model's order.
    pub(crate) fn accumulate(
        &self,
        segment: usize,
        gradients: Vec<Option<Tensor>>,
    ) -> Result<(), TrainError> {
        let _no_grad = tch::no_grad_guard();
        let segment = &self.segments[segment];
        for (slot, gradient) in segment.slots.iter().zip(gradients) {
            if let Some(gradient) = gradient {
                let _ = slot.view(&segment.gradient)?.f_add_(&gradient)?;
            }
        }
        Ok(())
    }

    /// Gradient of the embedding, f32 `[V, H]`.
    pub(crate) fn embedding_gradient(&self) -> Result<Tensor, TrainError> {
        self.segments[0].slots[0].view(&self.segments[0].gradient)
    }

    /// Gradient of the head's weight, f32 `[V, H]`: the embedding's where they are one.
    pub(crate) fn head_gradient(&self) -> Result<Tensor, TrainError> {
        let last = &self.segments[self.segments.len() - 1];
        match last.slots.get(1) {
            Some(head) => head.view(&last.gradient),
            None => self.embedding_gradient(),
        }
    }

    /// Copies the weights into what the passes compute with, where that is another tensor.
    pub(crate) fn publish(&mut self) -> Result<(), TrainError> {
        let _no_grad = tch::no_grad_guard();
        if self.has_masters() {
            for segment in &mut self.segments {
                segment.compute.f_copy_(&segment.master)?;
            }
        }
        Ok(())
    }

    /// Whether the passes compute in another type than the weights are kept in.
    pub(crate) fn has_masters(&self) -> bool {
        self.compute_kind != Kind::Float
    }
}

// === impl Segment ===

impl Segment {
    fn adopt(
        policy: &mut CausalLm,
        exact: Option<&CausalLm>,
        idx: usize,
    ) -> Result<Self, TrainError> {
        let given = policy.segment_parameters(idx);
        let mut slots: Vec<Option<Slot>> = given.iter().map(|_| None).collect();
        let (mut end, mut num_decaying) = (0, 0);
        for decaying in [true, false] {
            for (slot, parameter) in slots.iter_mut().zip(&given) {
                if parameter.decay == decaying {
                    let numel = parameter.tensor.numel() as i64;
                    let (name, shape) = (parameter.name.clone(), parameter.tensor.size());
                    *slot = Some(Slot { name, shape, offset: end, numel });
                    end += (numel + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
                }
            }
            if decaying {
                num_decaying = end;
            }
        }
        let slots: Vec<Slot> = slots.into_iter().flatten().collect();
        let (device, kind) = (policy.device(), policy.kind());
        let flat = || Tensor::f_zeros([end], (Kind::Float, device));
        let master = flat()?;
        match exact.map(|exact| exact.segment_parameters(idx)) {
            Some(exact) => copy_into(&master, &slots, exact.iter().map(|p| &p.tensor))?,
            None => copy_into(&master, &slots, given.iter().map(|p| &p.tensor))?,
        }
        let compute =
            if kind == Kind::Float { master.shallow_clone() } else { master.f_to_kind(kind)? };
        let leaves: Vec<Tensor> = slots
            .iter()
            .map(|slot| Ok(slot.view(&compute)?.f_detach()?.f_set_requires_grad(true)?))
            .collect::<Result<_, TrainError>>()?;
        policy.replace_parameters(idx, leaves.iter().map(Tensor::shallow_clone).collect())?;
        Ok(Self {
            slots,
            leaves,
            compute,
            master,
            gradient: flat()?,
            exp_avg: flat()?,
            exp_avg_sq: flat()?,
            num_decaying,
        })
    }

    /// The part of a buffer that decays, and the part that does not.
    pub(crate) fn split(&self, flat: &Tensor) -> Result<[Tensor; 2], TrainError> {
        let rest = flat.size1()? - self.num_decaying;
        Ok([flat.f_narrow(0, 0, self.num_decaying)?, flat.f_narrow(0, self.num_decaying, rest)?])
    }
}

// === impl Slot ===

impl Slot {
    /// This parameter's place in a buffer of its segment, in the parameter's shape.
    pub(crate) fn view(&self, flat: &Tensor) -> Result<Tensor, TrainError> {
        Ok(flat.f_narrow(0, self.offset, self.numel)?.f_view(self.shape.as_slice())?)
    }
}

fn copy_into<'a>(
    flat: &Tensor,
    slots: &[Slot],
    sources: impl Iterator<Item = &'a Tensor>,
) -> Result<(), TrainError> {
    for (slot, source) in slots.iter().zip(sources) {
        slot.view(flat)?.f_copy_(source)?;
    }
    Ok(())
}
