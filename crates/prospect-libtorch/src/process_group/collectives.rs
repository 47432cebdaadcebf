//! The collectives of a process group. Each starts at once and returns a [`Work`].

use std::ffi::c_int;
use std::ptr;
use std::sync::Arc;

use tch::Tensor;

use super::{Backend, ProcessGroup, Work};
use crate::checks::{Argument, Spec, refuse};
use crate::error::Result;
use crate::ffi;

impl ProcessGroup {
    /// Replaces `tensor` on every rank by the sum over the ranks.
    pub fn all_reduce_sum(&self, tensor: &mut Tensor) -> Result<Work> {
        const OP: &str = "all_reduce_sum";
        self.check(OP, "tensor", tensor)?;
        self.start(OP, |out, message| {
            // SAFETY: the group is alive and the tensor defined; the work shares its storage.
            unsafe {
                ffi::prospect_all_reduce_sum(self.handle.as_ptr(), tensor.as_ptr(), out, message)
            }
        })
    }

    /// Sums `input` over the ranks and gives rank r the r-th of `world_size` equal parts of it.
    pub fn reduce_scatter_sum(&self, output: &mut Tensor, input: &Tensor) -> Result<Work> {
        const OP: &str = "reduce_scatter_sum";
        self.check_parts(OP, ("output", output), ("input", input))?;
        self.start(OP, |out, message| {
            // SAFETY: the group is alive and the tensors defined; the work shares their storage.
            unsafe {
                ffi::prospect_reduce_scatter_sum(
                    self.handle.as_ptr(),
                    output.as_ptr(),
                    input.as_ptr(),
                    out,
                    message,
                )
            }
        })
    }

    /// Sums `whole` over the ranks where it counts: afterwards rank r finds the sum in the r-th of
    /// `world_size` equal parts of it. What its other parts hold is not defined.
    ///
    /// Over NCCL this is a reduce-scatter. c10d's own for Gloo is an all-reduce of a copy, so that
    /// here it is one without the copy.
    pub fn reduce_scatter_sum_in_place(&self, whole: &mut Tensor) -> Result<Work> {
        const OP: &str = "reduce_scatter_sum_in_place";
        if self.backend == Backend::Gloo {
            return self.all_reduce_sum(whole);
        }
        let spec = self.check(OP, "whole", whole)?;
        // World sizes and ranks are C integers.
        let (rank, size) = (self.rank as i64, self.world_size as i64);
        if spec.numel() % size != 0 {
            return refuse(OP, "whole", format!("{spec} has no {size} equal parts"));
        }
        let part = spec.numel() / size;
        let mut own = whole.f_view([-1])?.f_narrow(0, rank * part, part)?;
        self.reduce_scatter_sum(&mut own, whole)
    }

    /// Puts the `input` of rank r into the r-th of `world_size` equal parts of `output`.
    pub fn all_gather(&self, output: &mut Tensor, input: &Tensor) -> Result<Work> {
        const OP: &str = "all_gather";
        self.check_parts(OP, ("input", input), ("output", output))?;
        self.start(OP, |out, message| {
            // SAFETY: the group is alive and the tensors defined; the work shares their storage.
            unsafe {
                ffi::prospect_all_gather(
                    self.handle.as_ptr(),
                    output.as_ptr(),
                    input.as_ptr(),
                    out,
                    message,
                )
            }
        })
    }

    /// Replaces `tensor` on every rank by that of the rank `root`.
    pub fn broadcast(&self, tensor: &mut Tensor, root: usize) -> Result<Work> {
        const OP: &str = "broadcast";
        self.check(OP, "tensor", tensor)?;
        if root >= self.world_size {
            let reason = format!("{root} is not below the world size {}", self.world_size);
            return refuse(OP, "root", reason);
        }
        self.start(OP, |out, message| {
            // SAFETY: the group is alive and the tensor defined; the work shares its storage.
            unsafe {
                ffi::prospect_broadcast(
                    self.handle.as_ptr(),
                    tensor.as_ptr(),
                    root as c_int,
                    out,
                    message,
                )
            }
        })
    }

    /// A work that is done once every rank has called this.
    pub fn barrier(&self) -> Result<Work> {
        self.start("barrier", |out, message| {
            // SAFETY: the group is alive.
            unsafe { ffi::prospect_barrier(self.handle.as_ptr(), out, message) }
        })
    }

    fn start(
        &self,
        op: &'static str,
        body: impl FnOnce(*mut *mut ffi::Work, ffi::Message) -> c_int,
    ) -> Result<Work> {
        let mut raw = ptr::null_mut();
        self.handle.guarded(op, |message| body(&mut raw, message))?;
        Ok(Work::from_raw(op, raw, Arc::clone(&self.handle)))
    }

    fn check(&self, op: &'static str, name: &'static str, tensor: &Tensor) -> Result<Spec> {
        let argument = Argument::new(op, name, tensor);
        let spec = argument.contiguous()?;
        if !self.backend.takes(spec.device) {
            let backend = self.backend.name();
            return argument.refuse(format!("{backend} has no use for {:?}", spec.device));
        }
        Ok(spec)
    }

    /// Checks that `whole` is as large as the parts of all ranks.
    fn check_parts(
        &self,
        op: &'static str,
        (part_name, part): (&'static str, &Tensor),
        (whole_name, whole): (&'static str, &Tensor),
    ) -> Result<()> {
        let part = self.check(op, part_name, part)?;
        let found = self.check(op, whole_name, whole)?;
        let fits =
            i64::try_from(self.world_size).ok().and_then(|size| part.numel().checked_mul(size))
                == Some(found.numel());
        if !fits || part.kind != found.kind || part.device != found.device {
            let reason = format!(
                "it is {found}, but has to be {} times the {part_name}, which is {part}",
                self.world_size
            );
            return refuse(op, whole_name, reason);
        }
        Ok(())
    }
}
