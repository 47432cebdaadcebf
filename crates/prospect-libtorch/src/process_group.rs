//! Process groups: the collectives of c10d over Gloo (CPU) and NCCL (CUDA).

mod collectives;
mod handle;
mod work;

use std::cell::Cell;
use std::ffi::{CString, OsString, c_int};
use std::marker::PhantomData;
use std::path::Path;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use tch::Device;

use crate::checks::{refuse, timeout_ms};
use crate::error::Result;
use crate::store::TcpStore;
use crate::{cuda, ffi};

pub use handle::AbortHandle;
use handle::{Handle, Unclosed};
pub use work::Work;

const GLOO_SOCKET_IFNAME: &str = "GLOO_SOCKET_IFNAME";

/// The library that moves the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Over TCP. Tensors on a CUDA device go through main memory, so that several ranks can share
    /// one device.
    Gloo,
    /// Tensors on a CUDA device.
    Nccl {
        /// The one device of this rank.
        device: usize,
    },
}

/// A fixed set of ranks that carry out collectives together.
///
/// Every rank calls the same collectives in the same order. A collective returns at once with a
/// [`Work`]; until that has been waited for, its tensors are neither to be read nor written.
/// A group that is dropped with works that were not waited for, or failed, is aborted; so is
/// one over NCCL that was not [closed](ProcessGroup::close).
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
            Self::Nccl { .. } => "nccl",
        }
    }

    fn takes(self, device: Device) -> bool {
        match (self, device) {
            (Self::Gloo, Device::Cpu | Device::Cuda(_)) => true,
            (Self::Nccl { device }, Device::Cuda(device_idx)) => device == device_idx,
            _ => false,
        }
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
    /// [`LibtorchError::BackendUnavailable`](crate::LibtorchError::BackendUnavailable) for NCCL without a GPU or in a build without CUDA,
    /// [`LibtorchError::Timeout`](crate::LibtorchError::Timeout) when a rank does not come.
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
                let interface = gloo_interface(std::env::var_os(GLOO_SOCKET_IFNAME))?;
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
            Backend::Nccl { device } => {
                // c10d counts devices in a signed byte.
                let Ok(device) = i8::try_from(device) else {
                    return refuse(OP, "backend", format!("no CUDA device has the index {device}"));
                };
                let nccl_new = cuda::nccl_half()?;
                ffi::call(OP, |message| {
                    // SAFETY: as above; the function is the shim's own and stays loaded.
                    unsafe {
                        nccl_new(
                            store.as_ptr(),
                            prefix.as_ptr(),
                            c_int::from(device),
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
        let unclosed = match backend {
            Backend::Gloo => Unclosed::ShutDown,
            Backend::Nccl { .. } => Unclosed::Abort,
        };
        Ok(Self {
            handle: Arc::new(Handle::from_raw(raw, unclosed)),
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

    /// Whether every collective that has run so far has succeeded.
    ///
    /// Gloo reports a failure from [`Work::wait`]. With NCCL that only orders streams, and the
    /// failure of a collective is found in the background: ask here after waiting for the
    /// device (a copy to main memory does), before results are put to lasting use.
    ///
    /// # Errors
    /// As [`Work::wait`].
    pub fn check_health(&self) -> Result<()> {
        self.handle.guarded("check_health", |message| {
            // SAFETY: the group is alive.
            unsafe { ffi::prospect_group_health(self.handle.as_ptr(), message) }
        })
    }

    /// Waits for the group's device, and says whether every collective has succeeded.
    ///
    /// # Errors
    /// As [`Work::wait`].
    pub fn settle(&self) -> Result<()> {
        let waited = match self.backend {
            Backend::Gloo => Ok(()),
            Backend::Nccl { device } => self.handle.explain("settle", |message| {
                // SAFETY: the device exists; its index was below 128 when the group was made.
                unsafe { ffi::prospect_cuda_synchronize(device as c_int, message) }
            }),
        };
        // A collective that failed says more than the device that was waited for.
        self.check_health()?;
        waited
    }

    /// Ends the group in good order, once every collective has succeeded. Every rank calls this;
    /// after an error the group is aborted.
    ///
    /// # Errors
    /// As [`Work::wait`].
    pub fn close(self) -> Result<()> {
        self.settle()?;
        self.handle.close();
        Ok(())
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

/// The network interface that the environment variable asks for.
fn gloo_interface(value: Option<OsString>) -> Result<Option<CString>> {
    const OP: &str = "ProcessGroup::new";
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let name = value.to_string_lossy();
    let known = Path::new("/sys/class/net");
    if known.exists() && !known.join(&value).exists() {
        let reason = format!("this machine has no network interface {name:?}");
        return refuse(OP, GLOO_SOCKET_IFNAME, reason);
    }
    ffi::c_string(OP, GLOO_SOCKET_IFNAME, &name).map(Some)
}

#[cfg(test)]
mod tests;
