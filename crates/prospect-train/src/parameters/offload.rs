//! An optimizer whose state lies in main memory while passes compute on a GPU: gradients come piece
//! by piece, and weights go back piece by piece, each on a stream of its own, while the CPU updates
//! the piece between. On a machine without a GPU the same steps are plain copies.

#[cfg(test)]
mod tests;

use prospect_libtorch::{CudaEvent, SideStream, copy_async, pinned_zeros, round_bfloat16};
use tch::{Device, Kind, Tensor};

use super::narrowed;
use super::numbers::Numbers;
use crate::TrainError;

/// Elements of a piece: 64 MB of fp32, a few milliseconds of a link and of a CPU's update.
pub(super) const PIECE: i64 = 1 << 24;

/// The ways between the device that computes and main memory.
pub(crate) struct Offload {
    /// f32 in main memory: where the gradients of pieces come to, in turn.
    gradients: [Tensor; 2],
    /// f32 on the device: where weights come to that are rounded there.
    rounding: Option<Tensor>,
    lanes: Option<Lanes>,
}

/// The streams of a GPU on which copies wait for nothing but each other.
struct Lanes {
    device_idx: usize,
    down: SideStream,
    up: SideStream,
}

/// A gradient on its way into main memory.
pub(crate) struct Coming {
    gradient: Tensor,
    arrived: Option<CudaEvent>,
}

/// Zeros in main memory that `device` copies from and to fast.
pub(super) fn host_zeros(len: i64, device: Device) -> Result<Tensor, TrainError> {
    Ok(pinned_zeros(len, device)?.0)
}

// === impl Offload ===

impl Offload {
    /// For pieces of at most `piece_len` elements, whose weights passes on `device` compute with in
    /// `compute_kind`.
    pub(crate) fn new(
        piece_len: i64,
        compute_kind: Kind,
        device: Device,
    ) -> Result<Self, TrainError> {
        let (first, unpinned) = pinned_zeros(piece_len, device)?;
        if let Some(reason) = unpinned {
            tracing::warn!(
                reason,
                "main memory cannot be pinned: the offloaded optimizer's transfers will be slow",
            );
        }
        let rounds = compute_kind != Kind::Float;
        let rounding = || Tensor::f_empty([piece_len], (Kind::Float, device));
        Ok(Self {
            gradients: [first, host_zeros(piece_len, device)?],
            rounding: rounds.then(rounding).transpose()?,
            lanes: match device {
                Device::Cuda(device_idx) => Some(Lanes {
                    device_idx,
                    down: SideStream::new(device_idx)?,
                    up: SideStream::new(device_idx)?,
                }),
                _ => None,
            },
        })
    }

    /// What is fetched and sent from here on follows all that the device was given before.
    pub(crate) fn begin(&self) -> Result<(), TrainError> {
        if let Some(Lanes { device_idx, down, up }) = &self.lanes {
            let ready = CudaEvent::record(*device_idx)?;
            down.wait_for(&ready)?;
            up.wait_for(&ready)?;
        }
        Ok(())
    }

    /// Starts to copy the gradient of the piece number `turn` into main memory, in place of that of
    /// the piece before the last, whose update is over.
    pub(crate) fn fetch(&self, turn: usize, gradient: &Tensor) -> Result<Coming, TrainError> {
        let place = narrowed(&self.gradients[turn % 2], &(0..gradient.size1()?))?;
        let Some(Lanes { device_idx, down, .. }) = &self.lanes else {
            copy_async(&place, gradient)?;
            return Ok(Coming { gradient: place, arrived: None });
        };
        let arrived = down.run(|| -> Result<_, TrainError> {
            copy_async(&place, gradient)?;
            Ok(CudaEvent::record(*device_idx)?)
        })??;
        Ok(Coming { gradient: place, arrived: Some(arrived) })
    }

    /// Starts to copy fp32 weights from main memory to where passes compute with them. They are not
    /// to change before [`settle`](Self::settle).
    pub(crate) fn send(&self, master: &Numbers, own: &Tensor) -> Result<(), TrainError> {
        let _no_grad = tch::no_grad_guard();
        let master = master.values()?;
        let send = || {
            let Some(rounding) = &self.rounding else { return Ok(copy_async(own, &master)?) };
            let place = narrowed(rounding, &(0..master.size1()?))?;
            copy_async(&place, &master)?;
            Ok(round_bfloat16(&place, own)?)
        };
        match &self.lanes {
            Some(lanes) => lanes.up.run(send)?,
            None => send(),
        }
    }

    /// Waits until all that was sent has come.
    pub(crate) fn settle(&self) -> Result<(), TrainError> {
        if let Some(Lanes { device_idx, up, .. }) = &self.lanes {
            up.run(|| CudaEvent::record(*device_idx))??.wait()?;
        }
        Ok(())
    }
}

// === impl Coming ===

impl Coming {
    /// The gradient, once it is there.
    pub(crate) fn wait(self) -> Result<Tensor, TrainError> {
        if let Some(arrived) = &self.arrived {
            arrived.wait()?;
        }
        Ok(self.gradient)
    }
}
