//! The c10d backend that a process group, its works and its abort handles share.

use std::ffi::c_int;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use crate::error::{LibtorchError, Result};
use crate::ffi;

/// Aborts a process group from any thread. Does nothing once the group is gone.
#[derive(Debug, Clone)]
pub struct AbortHandle {
    group: Weak<Handle>,
}

/// What becomes of a group that is dropped without having been closed. One with unfinished works
/// is aborted in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unclosed {
    /// A work that was waited for has ended, so nothing can be under way.
    ShutDown,
    /// A work that was waited for may still be under way, and shutting down waits for it.
    Abort,
}

#[derive(Debug)]
pub(super) struct Handle {
    raw: NonNull<ffi::Group>,
    aborted: AtomicBool,
    /// Works that were started and have not been waited for with success.
    unfinished: AtomicUsize,
    unclosed: Unclosed,
    closed: AtomicBool,
}

// SAFETY: a c10d backend has no thread affinity.
unsafe impl Send for Handle {}
// SAFETY: collectives are started by one thread only, since ProcessGroup is not Sync; aborting
// and asking for errors is what c10d, and for Gloo the shim, allow from other threads.
unsafe impl Sync for Handle {}

// === impl AbortHandle ===

impl AbortHandle {
    pub(super) fn new(group: &Arc<Handle>) -> Self {
        Self { group: Arc::downgrade(group) }
    }

    /// Gives up every collective of the group, under way and to come; a thread that waits for
    /// one gets [`LibtorchError::Aborted`].
    pub fn abort(&self) -> Result<()> {
        match self.group.upgrade() {
            Some(group) => group.abort(),
            None => Ok(()),
        }
    }
}

// === impl Handle ===

impl Handle {
    pub(super) fn from_raw(raw: *mut ffi::Group, unclosed: Unclosed) -> Self {
        Self {
            raw: NonNull::new(raw).expect("the shim stores a handle when it reports success"),
            aborted: AtomicBool::new(false),
            unfinished: AtomicUsize::new(0),
            unclosed,
            closed: AtomicBool::new(false),
        }
    }

    pub(super) fn as_ptr(&self) -> *mut ffi::Group {
        self.raw.as_ptr()
    }

    /// Runs a call on the group, unless it was aborted before.
    pub(super) fn guarded(
        &self,
        op: &'static str,
        body: impl FnOnce(ffi::Message) -> c_int,
    ) -> Result<()> {
        if self.aborted.load(Ordering::SeqCst) {
            return Err(LibtorchError::Aborted { op });
        }
        self.explain(op, body)
    }

    /// Runs a call on the group; a failure after an abort is told as the abort that it is.
    pub(super) fn explain(
        &self,
        op: &'static str,
        body: impl FnOnce(ffi::Message) -> c_int,
    ) -> Result<()> {
        ffi::call(op, body).map_err(|error| {
            if self.aborted.load(Ordering::SeqCst) { LibtorchError::Aborted { op } } else { error }
        })
    }

    pub(super) fn abort(&self) -> Result<()> {
        // Set first, so that whoever is woken by the abort sees why.
        if self.aborted.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        ffi::call("abort", |message| {
            // SAFETY: the group is alive as long as this handle.
            unsafe { ffi::prospect_group_abort(self.as_ptr(), message) }
        })
    }

    /// Declares that nothing is under way any more.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Whether something may be under way that nobody waits for any more.
    fn is_abandoned(&self) -> bool {
        let closed = self.closed.load(Ordering::SeqCst);
        self.unfinished.load(Ordering::SeqCst) > 0 || (self.unclosed == Unclosed::Abort && !closed)
    }

    pub(super) fn work_started(&self) {
        self.unfinished.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn work_succeeded(&self) {
        self.unfinished.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Destroying a backend waits for its collectives. One that nobody waits for any more
        // may never end, because the other ranks may be gone.
        if self.is_abandoned() {
            // There is nobody to tell, and the backend is destroyed all the same.
            let _ = self.abort();
        } else if !self.aborted.load(Ordering::SeqCst) {
            let _ = ffi::call("shutdown", |message| {
                // SAFETY: the group is alive until the end of this function.
                unsafe { ffi::prospect_group_shutdown(self.as_ptr(), message) }
            });
        }
        // SAFETY: the handle came from the shim, works hold it alive, and it is freed once.
        unsafe { ffi::prospect_group_free(self.as_ptr()) };
    }
}
