//! A collective under way.

use std::ptr::NonNull;
use std::sync::Arc;

use super::handle::Handle;
use crate::error::Result;
use crate::ffi;

/// A collective under way. Holds its tensors and its process group until it is dropped.
#[must_use = "the tensors of a collective are only to be used after `wait`"]
#[derive(Debug)]
pub struct Work {
    raw: NonNull<ffi::Work>,
    op: &'static str,
    group: Arc<Handle>,
}

// SAFETY: c10d's works may be waited for and released on any thread.
unsafe impl Send for Work {}

// === impl Work ===

impl Work {
    pub(super) fn from_raw(op: &'static str, raw: *mut ffi::Work, group: Arc<Handle>) -> Self {
        let raw = NonNull::new(raw).expect("the shim stores a handle when it reports success");
        group.work_started();
        Self { raw, op, group }
    }

    /// Waits until the results may be used.
    ///
    /// With Gloo the calling thread is held until the collective is done. With NCCL the current
    /// CUDA stream is, and the thread goes on (a barrier holds the thread as well).
    ///
    /// # Errors
    /// [`LibtorchError::Timeout`](crate::LibtorchError::Timeout),
    /// [`LibtorchError::ConnectionLost`](crate::LibtorchError::ConnectionLost) and
    /// [`LibtorchError::Aborted`](crate::LibtorchError::Aborted); after any of them the group
    /// is of no more use.
    pub fn wait(self) -> Result<()> {
        // Not refused after an abort: the collective may have been done before it.
        self.group.explain(self.op, |message| {
            // SAFETY: the work is alive until it is dropped at the end of this function.
            unsafe { ffi::prospect_work_wait(self.raw.as_ptr(), message) }
        })?;
        self.group.work_succeeded();
        Ok(())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // SAFETY: the handle came from the shim and is freed once, before the group.
        unsafe { ffi::prospect_work_free(self.raw.as_ptr()) };
    }
}
