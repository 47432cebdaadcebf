//! Calling the binary, and what it is given.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// What a call printed and how it ended.
#[derive(Debug)]
pub struct Called {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// The binary, with nothing of this machine's environment that it would look at.
pub fn prospect(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_prospect"));
    command.args(args);
    for name in ["PROSPECT_WORKER", "PROSPECT_LOG", "RANK", "CLICOLOR_FORCE"] {
        command.env_remove(name);
    }
    command
}

/// Calls it to its end.
pub fn call(command: &mut Command) -> Called {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let called = Called { code: status.code(), out: text(stdout), err: text(stderr) };
    let coloured = called.out.contains('\u{1b}') || called.err.contains('\u{1b}');
    assert!(!coloured, "colours without a terminal: {called:?}");
    called
}

impl Called {
    /// Asserts how it ended and what standard error says.
    #[track_caller]
    pub fn check(&self, code: i32, said: &[&str]) -> &Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        for words in said {
            assert!(self.err.contains(words), "{words:?} is missing in {self:#?}");
        }
        assert!(!self.err.contains("panicked"), "{self:#?}");
        self
    }

    /// Asserts what standard output says.
    #[track_caller]
    pub fn printed(&self, said: &[&str]) -> &Self {
        for words in said {
            assert!(self.out.contains(words), "{words:?} is missing in {self:#?}");
        }
        self
    }
}

/// A call that is still going on, and ends with the test.
pub struct Running(Child);

impl Running {
    /// Starts it.
    pub fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    /// Sends it a signal, unless it has ended.
    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(Pid::from_child(&self.0), signal);
    }

    /// The worker of this name, once it is there.
    pub fn worker(&self, name: &str) -> Pid {
        let children = format!("/proc/{0}/task/{0}/children", self.0.id());
        wait_for(name, || {
            let pids = fs::read_to_string(&children).unwrap_or_default();
            let is_it = |pid: &&str| {
                let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                // Before it has become the worker program it is no worker yet.
                let words = String::from_utf8_lossy(&words).into_owned();
                words.contains("\0run\0") && words.contains(&format!("\0{name}\0"))
            };
            let pid = pids.split_whitespace().find(is_it)?.parse().unwrap();
            Some(Pid::from_raw(pid).unwrap())
        })
    }

    /// Whether it goes on.
    pub fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Waits for its end. It prints too little to fill a pipe.
    pub fn end(mut self) -> Called {
        wait_for("the end", || self.0.try_wait().unwrap());
        let text = |pipe: Option<&mut dyn std::io::Read>| {
            let mut text = String::new();
            pipe.unwrap().read_to_string(&mut text).unwrap();
            text
        };
        let out = text(self.0.stdout.as_mut().map(|pipe| pipe as _));
        let err = text(self.0.stderr.as_mut().map(|pipe| pipe as _));
        Called { code: self.0.wait().unwrap().code(), out, err }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Looks until there is something to see.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "waited in vain for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A standard error that is full, and the reader that does not read.
pub fn stuck() -> (UnixStream, UnixStream) {
    let (mut writer, reader) = UnixStream::pair().unwrap();
    writer.set_nonblocking(true).unwrap();
    while writer.write(&[b'.'; 4096]).is_ok() {}
    writer.set_nonblocking(false).unwrap();
    (writer, reader)
}

/// A directory that goes with the test.
pub fn scratch() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Writes a file and returns its path as text.
pub fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A worker program made of a shell script; `$1` is its subcommand.
pub fn fake_worker(dir: &Path, script: &str) -> PathBuf {
    let path = PathBuf::from(write(dir, "fake-worker", &format!("#!/bin/sh\n{script}\n")));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A model directory with a tokenizer of a few words and weights in name only.
pub fn model_dir(dir: &Path) -> String {
    let words = ["<eos>", "<unk>", "why", "how", "sky", "sea", "blue", "deep", "because", "no"];
    let vocabulary: Vec<String> =
        words.iter().enumerate().map(|(at, word)| format!("{word:?}:{at}")).collect();
    let tokenizer = format!(
        r#"{{"version":"1.0","truncation":null,"padding":null,"normalizer":null,
            "added_tokens":[{{"id":0,"content":"<eos>","single_word":false,"lstrip":false,
            "rstrip":false,"normalized":false,"special":true}}],
            "pre_tokenizer":{{"type":"WhitespaceSplit"}},"post_processor":null,"decoder":null,
            "model":{{"type":"WordLevel","vocab":{{{}}},"unk_token":"<unk>"}}}}"#,
        vocabulary.join(",")
    );
    write(dir, "model/tokenizer.json", &tokenizer);
    write(dir, "model/tokenizer_config.json", r#"{"eos_token":"<eos>"}"#);
    write(dir, "model/config.json", r#"{"eos_token_id":0}"#);
    write(dir, "model/model.safetensors", "not weights, only a name");
    dir.join("model").to_str().unwrap().to_owned()
}

/// Rows of both classes in TRL's unpaired format.
pub fn feedback(dir: &Path) -> String {
    let rows = [
        r#"{"prompt":"why sky","completion":" because blue","label":true}"#,
        r#"{"prompt":"how sea","completion":" no","label":false}"#,
        r#"{"prompt":"why sea","completion":" deep","label":true}"#,
        r#"{"prompt":"how sky","completion":" no no","label":false}"#,
    ];
    write(dir, "feedback.jsonl", &(rows.join("\n") + "\n"))
}

/// A run configuration over the two.
pub fn config(dir: &Path, name: &str) -> String {
    let text = format!(
        "[model]\npath = {:?}\n[data]\ntrain = [{:?}]\n[train]\nglobal_batch_size = 2\nsteps = 2\n",
        model_dir(dir),
        feedback(dir),
    );
    write(dir, name, &text)
}
