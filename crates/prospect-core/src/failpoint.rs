//! Places at which a test can make a process die or a disk fail. Without the feature
//! `failpoints` there are none.
//!
//! With it, the environment variable `FAILPOINTS` says what happens where, in the words of the
//! `fail` crate: `checkpoint::rename=return(crash)` ends the process as SIGKILL does,
//! `checkpoint::write=return(full)` is a disk without space, `worker::backward=3*off->pause`
//! stands still at the fourth time, `coordinator::commit=sleep(500)` takes half a second.

use std::io;

/// Passes the place `name`, unless a test wants something to happen there.
///
/// # Errors
/// The error of a full disk, where a test asks for it.
#[cfg(feature = "failpoints")]
pub fn hit(name: &str) -> io::Result<()> {
    use std::sync::OnceLock;

    static SCENARIO: OnceLock<()> = OnceLock::new();
    // Reading the environment once; the scenario lasts as long as the process.
    SCENARIO.get_or_init(|| std::mem::forget(fail::FailScenario::setup()));
    fail::fail_point!(name, |wanted: Option<String>| match wanted.as_deref() {
        Some("full") => Err(io::Error::from(io::ErrorKind::StorageFull)),
        // No destructor runs and no buffer is written, as with SIGKILL.
        _ => std::process::abort(),
    });
    Ok(())
}

/// Passes the place `name`.
///
/// # Errors
/// None in a build without the feature `failpoints`.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn hit(_name: &str) -> io::Result<()> {
    Ok(())
}
