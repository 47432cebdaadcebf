//! Against a real S3 server: moto, of the Python environment that `scripts/setup` makes.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use prospect_core::{ExitCode, Step};

use super::made_up::{MadeUpRun, files};
use super::upload;
use crate::mirror::{Mirror, MirrorError};

/// Serves until its standard input ends, and says on which port.
const SERVER: &str = r#"
import sys
import boto3
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
url = f"http://{host}:{port}"
keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys).create_bucket(Bucket="copies")
print(url, flush=True)
sys.stdin.read()
server.stop()
"#;

/// A server that ends with this value.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    /// `None` where the server is not installed.
    fn start() -> Option<Self> {
        let python = python()?;
        let mut process = Command::new(python)
            .args(["-c", SERVER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut url).unwrap();
        Some(Self { process, url: url.trim().to_owned() })
    }

    fn mirror(&self, url: &str) -> Mirror {
        let variables = [
            ("AWS_ENDPOINT_URL", self.url.as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_REGION", "us-east-1"),
            // Not one of the store's own: such names must not be taken for its settings.
            ("BUCKET", "another"),
        ];
        let variables = variables.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Mirror::open_with(url, variables.into_iter()).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The end of its input.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// The environment's interpreter, if it has the server.
fn python() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let python = root.join(".venv/bin/python");
    let found = Command::new(&python).args(["-c", "import moto.server, boto3"]).output();
    found.is_ok_and(|output| output.status.success()).then_some(python)
}

#[tokio::test]
async fn an_s3_server_keeps_copies() {
    let Some(server) = Server::start() else {
        eprintln!("skipped: moto is not in .venv; `make setup` installs it");
        return;
    };
    let (mirror, run) = (server.mirror("s3://copies/runs/one"), MadeUpRun::new());
    assert_eq!(mirror.newest(None).await.unwrap(), None);
    for step in [2, 4] {
        run.checkpoint(step);
        assert_eq!(upload(&mirror, &run, step).await.unwrap(), 9);
    }
    // In pieces, as files above 8 MiB go.
    run.checkpoint_of(6, &"0123456789abcde".repeat(700_000));
    upload(&mirror, &run, 6).await.unwrap();
    assert_eq!(upload(&mirror, &run, 6).await.unwrap(), 0);
    assert_eq!(mirror.complete(None).await.unwrap(), [Step(6), Step(4), Step(2)]);

    let dir = tempfile::tempdir().unwrap();
    let staged = dir.path().join("staged");
    mirror.download(Step(6), &staged).await.unwrap();
    assert!(files(&staged) == files(&run.checkpoint_dir(6)));
    let records = dir.path().join("records");
    assert_eq!(mirror.download_records(Step(4), &records).await.unwrap().len(), 4);

    assert_eq!(mirror.prune(2).await.unwrap(), [Step(2)]);
    assert_eq!(mirror.steps().await.unwrap(), [Step(6), Step(4)]);
    // Another prefix of the bucket is another mirror.
    assert_eq!(server.mirror("s3://copies/runs").newest(None).await.unwrap(), None);

    let error = upload(&server.mirror("s3://nobody-made-this/one"), &run, 4).await.unwrap_err();
    assert!(matches!(error, MirrorError::Store { .. }), "{error}");
    assert_eq!(error.exit_code(), ExitCode::Storage);
}
