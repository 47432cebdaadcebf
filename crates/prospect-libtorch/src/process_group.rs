//! Process groups: the collectives of c10d over Gloo (CPU) and NCCL (CUDA).

mod handle;
mod work;

use std::cell::Cell;
use std::ffi::{CString, c_int};
use std::marker::PhantomData;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use tch::{Device, Tensor};

use crate::checks::{Argument, Spec, refuse, timeout_ms};
use crate::error::{LibtorchError, Result};
use crate::store::TcpStore;
use crate::{cuda, ffi};

pub use handle::AbortHandle;
use handle::Handle;
pub use work::Work;

/// The library that moves the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Tensors in main memory, over TCP.
    Gloo,
    /// Tensors on CUDA devices.
    Nccl,
}

/// A fixed set of ranks that carry out collectives together.
///
/// Every rank calls the same collectives in the same order. A collective returns at once with a
/// [`Work`]; until that has been waited for, its tensors are neither to be read nor written.
/// A group that is dropped with works that were not waited for, or failed, is aborted.
pub struct ProcessGroup {
    handle: Arc<Handle>,
    rank: usize,
    world_size: usize,
    backend: Backend,
    // The order of collectives is part of the protocol, so one thread at a time starts them.
    one_thread: PhantomData<Cell<()>>,
}

// === impl Backend ===

impl Backend {
    /// c10d's name of the backend.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gloo => "gloo",
            Self::Nccl => "nccl",
        }
    }

    fn takes(self, device: Device) -> bool {
        matches!((self, device), (Self::Gloo, Device::Cpu) | (Self::Nccl, Device::Cuda(_)))
    }
}

// === impl ProcessGroup ===

impl ProcessGroup {
    /// Meets the other `world_size − 1` ranks at `store` under the key prefix `prefix`, which
    /// no earlier group on this store may have used.
    ///
    /// `timeout` bounds the meeting and, later, each collective. Gloo uses the loopback
    /// interface unless the environment variable `GLOO_SOCKET_IFNAME` names another.
    ///
    /// # Errors
    /// [`LibtorchError::BackendUnavailable`] for NCCL without a GPU or in a build without CUDA,
    /// [`LibtorchError::Timeout`] when a rank does not come.
    pub fn new(
        backend: Backend,
        store: &TcpStore,
        prefix: &str,
        rank: usize,
        world_size: usize,
        timeout: Duration,
    ) -> Result<Self> {
        const OP: &str = "ProcessGroup::new";
        let timeout_ms = timeout_ms(OP, timeout)?;
        let Ok(size) = c_int::try_from(world_size) else {
            return refuse(OP, "world_size", format!("{world_size} is too large"));
        };
        if rank >= world_size {
            let reason = format!("{rank} is not below the world size {world_size}");
            return refuse(OP, "rank", reason);
        }
        // Below `size`, which is a c_int.
        let c_rank = rank as c_int;
        let prefix = ffi::c_string(OP, "prefix", prefix)?;
        let mut raw = ptr::null_mut();
        match backend {
            Backend::Gloo => {
                let interface = gloo_interface()?;
                let interface = interface.as_ref().map_or(ptr::null(), |name| name.as_ptr());
                ffi::call(OP, |message| {
                    // SAFETY: the store is alive, the texts and `raw` outlive the call.
                    unsafe {
                        ffi::prospect_gloo_new(
                            store.as_ptr(),
                            prefix.as_ptr(),
                            interface,
                            c_rank,
                            size,
                            timeout_ms,
                            &mut raw,
                            message,
                        )
                    }
                })?;
            }
            Backend::Nccl => {
                let nccl_new = cuda::nccl_half()?;
                ffi::call(OP, |message| {
                    // SAFETY: as above; the function is the shim's own and stays loaded.
                    unsafe {
                        nccl_new(
                            store.as_ptr(),
                            prefix.as_ptr(),
                            c_rank,
                            size,
                            timeout_ms,
                            &mut raw,
                            message,
                        )
                    }
                })
                .map_err(cuda::name_nccl)?;
            }
        }
        Ok(Self {
            handle: Arc::new(Handle::from_raw(raw)),
            rank,
            world_size,
            backend,
            one_thread: PhantomData,
        })
    }

    /// This process's place among the ranks, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of ranks.
    pub fn world_size(&self) -> usize {
        self.world_size
    }

    /// The library that moves the data.
    pub fn backend(&self) -> Backend {
        self.backend
    }

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

    /// Whether every collective that has run so far has succeeded.
    ///
    /// Gloo reports a failure from [`Work::wait`]. With NCCL that only orders streams, and the
    /// failure of a collective is found in the background: ask here after waiting for the
    /// device, before results are put to lasting use.
    pub fn check_health(&self) -> Result<()> {
        self.handle.guarded("check_health", |message| {
            // SAFETY: the group is alive.
            unsafe { ffi::prospect_group_health(self.handle.as_ptr(), message) }
        })
    }

    /// Gives up every collective, under way and to come, on this rank. The others notice that a
    /// connection is lost. Does nothing the second time.
    pub fn abort(&self) -> Result<()> {
        self.handle.abort()
    }

    /// A handle with which another thread aborts this group.
    pub fn abort_handle(&self) -> AbortHandle {
        AbortHandle::new(&self.handle)
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

impl std::fmt::Debug for ProcessGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessGroup")
            .field("backend", &self.backend)
            .field("rank", &self.rank)
            .field("world_size", &self.world_size)
            .finish_non_exhaustive()
    }
}

/// The network interface that the environment asks for.
fn gloo_interface() -> Result<Option<CString>> {
    const NAME: &str = "GLOO_SOCKET_IFNAME";
    match std::env::var(NAME) {
        Ok(name) if !name.is_empty() => ffi::c_string("ProcessGroup::new", NAME, &name).map(Some),
        Ok(_) | Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(name)) => Err(LibtorchError::InvalidArgument {
            op: "ProcessGroup::new",
            argument: NAME,
            reason: format!("{name:?} is not the name of an interface"),
        }),
    }
}

#[cfg(test)]
mod tests;
