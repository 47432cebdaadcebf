//! Workers in network namespaces of their own, with a bridge between them. The
//! test itself runs again in namespaces of network, mounts and processes, so that
//! whatever happens nothing of it is left on the machine.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Says that this process is the one inside the namespaces.
const INSIDE: &str = "PROSPECT_CHAOS_INSIDE";
/// Where the coordinator listens.
const COORDINATOR: &str = "10.77.0.1";
/// A hardware address that nobody has: what is sent there is lost without a word.
const NOWHERE: &str = "02:00:00:00:00:99";

/// Runs `body` in namespaces of its own, where the machine permits that. `test` is the full
/// name of the test that calls.
pub fn in_namespaces(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let flags = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let permitted = Command::new("unshare").args(flags).args(["ip", "link"]).output();
    match permitted {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let words = String::from_utf8_lossy(&output.stderr);
            return println!("SKIPPED {test}: no namespaces on this machine: {}", words.trim());
        }
        Err(error) => return println!("SKIPPED {test}: unshare cannot be run: {error}"),
    }
    let mut command = Command::new("unshare");
    command.args(flags).arg(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--include-ignored"]).env(INSIDE, "1");
    let status = command.status().unwrap();
    assert!(status.success(), "{test} inside its namespaces: {status}");
}

/// A bridge to which hosts are added.
#[derive(Clone, Debug)]
pub struct Network {
    num_hosts: Arc<AtomicU32>,
}

/// A network namespace with one interface.
#[derive(Clone, Debug)]
pub struct Host {
    number: u32,
}

impl Network {
    /// Builds the bridge; only inside [`in_namespaces`].
    pub fn build() -> Self {
        ip("link set lo up");
        ip("link add bridge0 type bridge");
        ip(&format!("addr add {COORDINATOR}/24 dev bridge0"));
        ip("link set bridge0 up");
        std::fs::create_dir_all("/run/netns").unwrap();
        // Names of namespaces are files; these are seen by this test alone.
        call("mount", "-t tmpfs none /run/netns");
        Self { num_hosts: Arc::default() }
    }

    /// Address of the coordinator.
    pub fn coordinator(&self) -> &str {
        COORDINATOR
    }

    /// One more host on the bridge.
    pub fn new_host(&self) -> Host {
        let host = Host { number: self.num_hosts.fetch_add(1, Ordering::Relaxed) };
        let (name, link, address) = (host.name(), host.link(), host.address());
        let interface = Host::INTERFACE;
        ip(&format!("netns add {name}"));
        ip(&format!("link add {link} type veth peer name {interface} netns {name}"));
        ip(&format!("link set {link} master bridge0 up"));
        ip(&format!("-n {name} addr add {address}/24 dev {interface}"));
        ip(&format!("-n {name} link set {interface} up"));
        ip(&format!("-n {name} link set lo up"));
        host
    }
}

impl Host {
    /// The interface inside the namespace.
    pub const INTERFACE: &str = "eth0";

    fn name(&self) -> String {
        format!("w{}", self.number)
    }

    fn link(&self) -> String {
        format!("veth{}", self.number)
    }

    /// Its address.
    pub fn address(&self) -> String {
        format!("10.77.0.{}", 10 + self.number)
    }

    /// A command that runs a program here.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name()]).arg(program);
        command
    }

    /// Pulls the cable: what is sent is lost, and no connection is told.
    pub fn cut(&self) {
        ip(&format!("link set {} down", self.link()));
    }

    /// Puts the cable back.
    pub fn heal(&self) {
        ip(&format!("link set {} up", self.link()));
    }

    /// What this host and another one send to each other is lost from now on.
    pub fn cut_from(&self, other: &Self) {
        self.lose(&other.address());
        other.lose(&self.address());
    }

    /// They hear each other again.
    pub fn heal_from(&self, other: &Self) {
        self.find(&other.address());
        other.find(&self.address());
    }

    /// What this host sends to the coordinator is lost from now on, and the other way round.
    pub fn cut_from_coordinator(&self) {
        self.lose(COORDINATOR);
        ip(&format!("neigh replace {} lladdr {NOWHERE} dev bridge0 nud permanent", self.address()));
    }

    /// It reaches the coordinator again.
    pub fn heal_from_coordinator(&self) {
        self.find(COORDINATOR);
        ip(&format!("neigh del {} dev bridge0", self.address()));
    }

    fn lose(&self, address: &str) {
        let (name, interface) = (self.name(), Self::INTERFACE);
        ip(&format!(
            "-n {name} neigh replace {address} lladdr {NOWHERE} dev {interface} nud permanent"
        ));
    }

    fn find(&self, address: &str) {
        ip(&format!("-n {} neigh del {address} dev {}", self.name(), Self::INTERFACE));
    }
}

fn ip(arguments: &str) {
    call("ip", arguments);
}

/// Runs a program that must succeed.
pub fn call(program: &str, arguments: &str) {
    let output = Command::new(program).args(arguments.split(' ')).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {words}");
}
