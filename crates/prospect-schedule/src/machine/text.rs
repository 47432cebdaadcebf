//! Numbers of things in words.

/// A number of workers in words.
pub(super) fn workers(count: u32) -> String {
    if count == 1 { "1 worker".into() } else { format!("{count} workers") }
}

/// A number of steps in words.
pub(super) fn steps(count: u64) -> String {
    if count == 1 { "1 step".into() } else { format!("{count} steps") }
}
