//! Standard error: what is said beside the output. A thread of its own writes it: a reader that is
//! slow costs lines and one that is gone all of them, never a step and never the exit code.

use std::io::{Write, stderr};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

/// Lines that may wait to be written; later ones are dropped.
const WAITING_LINES: usize = 4096;
/// How long the end waits for them.
const PATIENCE: Duration = Duration::from_secs(1);

static WRITER: OnceLock<SyncSender<Notice>> = OnceLock::new();

/// What the thread is told.
enum Notice {
    /// A line to write.
    Line(String),
    /// All before this is written when the other end hears it.
    End(SyncSender<()>),
}

/// Says a line.
pub fn say(line: &str) {
    // A reader that is stuck is told nothing more.
    let _ = WRITER.get_or_init(start).try_send(Notice::Line(format!("{line}\n")));
}

/// Waits until what was said is written, a second at most.
pub fn finish() {
    let Some(writer) = WRITER.get() else { return };
    let (sender, written) = sync_channel(1);
    if writer.try_send(Notice::End(sender)).is_ok() {
        let _ = written.recv_timeout(PATIENCE);
    }
}

fn start() -> SyncSender<Notice> {
    let (sender, notices) = sync_channel(WAITING_LINES);
    // Without the thread nothing is said, and all else goes on.
    let _ = thread::Builder::new().name("notices".to_owned()).spawn(move || write(&notices));
    sender
}

fn write(notices: &Receiver<Notice>) {
    for notice in notices {
        let _ = match notice {
            Notice::Line(line) => stderr().write_all(line.as_bytes()).is_ok(),
            Notice::End(written) => written.send(()).is_ok(),
        };
    }
}
