//! Files that only grow, piece by piece.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::CoordinatorError;

/// How long a full disk is waited for. A checkpoint that does not fit either is given up by its
/// writer meanwhile, and what there is of it removed, which makes room for many lines.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it waits at a time.
const PAUSE: Duration = Duration::from_millis(50);

/// A file that only grows, by whole pieces.
#[derive(Debug)]
pub(crate) struct GrowingFile {
    path: PathBuf,
    file: File,
    /// Bytes of the whole pieces.
    len: u64,
    patience: Duration,
    /// Whether nothing was added since the last time that it was made durable.
    is_synced: bool,
}

impl GrowingFile {
    /// Opens a file that is durable as it is; makes it where there is none.
    pub(crate) fn open(path: &Path) -> Result<Self, CoordinatorError> {
        Self::open_with(path, OpenOptions::new().create(true))
            .map_err(CoordinatorError::storage("opening", path))
    }

    /// Makes a file that must not be there yet.
    pub(crate) fn create_new(path: &Path) -> io::Result<Self> {
        Self::open_with(path, OpenOptions::new().create_new(true))
    }

    fn open_with(path: &Path, options: &mut OpenOptions) -> io::Result<Self> {
        let file = options.append(true).open(path)?;
        let len = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, len, patience: PATIENCE, is_synced: true })
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for no room from here on.
    pub(crate) fn hurry(&mut self) {
        self.patience = Duration::ZERO;
    }

    /// Adds a piece; waits a few seconds for room where there is none. It is the event loop that
    /// waits: what cannot be put on record must not happen. What workers say meanwhile is heard
    /// afterwards, and their silence does not count.
    ///
    /// # Errors
    /// A file that cannot be written, or a disk that stays full.
    pub(crate) fn append(&mut self, piece: &[u8]) -> Result<(), CoordinatorError> {
        when_there_is_room(self.patience, || self.append_at_once(piece))
            .map_err(CoordinatorError::storage("writing", &self.path))
    }

    /// Adds a piece. What could be written of one that did not fit is taken off again, so that a
    /// later one does not continue it.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(crate) fn append_at_once(&mut self, piece: &[u8]) -> io::Result<()> {
        self.is_synced = false;
        self.file.write_all(piece).inspect_err(|_| {
            // Fails where nothing was written either, as on a device.
            let _ = self.file.set_len(self.len);
        })?;
        self.len += piece.len() as u64;
        Ok(())
    }

    /// Waits until all pieces are on the disk.
    ///
    /// # Errors
    /// A disk that fails.
    pub(crate) fn sync(&mut self) -> Result<(), CoordinatorError> {
        self.sync_at_once().map_err(CoordinatorError::storage("syncing", &self.path))
    }

    /// The same, with the system's words.
    ///
    /// # Errors
    /// A disk that fails.
    pub(crate) fn sync_at_once(&mut self) -> io::Result<()> {
        if !self.is_synced {
            self.file.sync_data()?;
            self.is_synced = true;
        }
        Ok(())
    }
}

/// Writes, again and again for this long where the disk is full.
fn when_there_is_room(
    patience: Duration,
    mut write: impl FnMut() -> io::Result<()>,
) -> io::Result<()> {
    let mut waited = Duration::ZERO;
    loop {
        let is_full = |error: &io::Error| {
            matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
        };
        match write() {
            Err(error) if is_full(&error) && waited < patience => {
                if waited.is_zero() {
                    tracing::warn!("the disk is full, waiting {patience:?} for room");
                }
                thread::sleep(PAUSE);
                waited += PAUSE;
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often is written to a disk that is full the first so many times.
    #[track_caller]
    fn check(num_full: u32, kind: ErrorKind, patience: Duration, expected: Result<u32, u32>) {
        let mut num_writes = 0;
        let result = when_there_is_room(patience, || {
            num_writes += 1;
            if num_writes <= num_full { Err(kind.into()) } else { Ok(()) }
        });
        assert_eq!(result.map(|()| num_writes).map_err(|_| num_writes), expected);
    }

    #[test]
    fn a_full_disk_is_waited_for() {
        check(0, ErrorKind::StorageFull, 4 * PAUSE, Ok(1));
        check(2, ErrorKind::StorageFull, 4 * PAUSE, Ok(3));
        check(2, ErrorKind::QuotaExceeded, 4 * PAUSE, Ok(3));
        check(9, ErrorKind::StorageFull, 4 * PAUSE, Err(5));
        check(1, ErrorKind::StorageFull, Duration::ZERO, Err(1));
        check(1, ErrorKind::PermissionDenied, 4 * PAUSE, Err(1));
    }
}
