//! Who a worker is: its name, its incarnation, and the host under which its
//! peers reach it.

use std::net::{IpAddr, Ipv4Addr};

use prospect_core::{Incarnation, WorkerId};
use tokio::net::{UdpSocket, lookup_host};
use tonic::transport::Uri;

use crate::backoff::random_bits;
use crate::options::WorkerOptions;

/// Identity of one worker process.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its name.
    pub worker: WorkerId,
    /// Which process of that name.
    pub incarnation: Incarnation,
    /// Host for its peers.
    pub host: String,
}

impl Identity {
    /// Takes what the options give and finds out the rest.
    pub async fn find(options: &WorkerOptions, coordinator: &Uri) -> Self {
        let host = match &options.environment.host {
            Some(host) => host.clone(),
            None => local_address(coordinator).await.to_string(),
        };
        Self {
            worker: WorkerId(worker_name(options)),
            incarnation: Incarnation(format!("{:016x}{:016x}", random_bits(), random_bits())),
            host,
        }
    }
}

/// The name given, the pod's, or one made from host and process id.
fn worker_name(options: &WorkerOptions) -> String {
    options
        .worker_id
        .clone()
        .or_else(|| options.environment.pod_name.clone())
        .unwrap_or_else(|| format!("{}-{}", host_name(), std::process::id()))
}

/// The machine's name, `worker` where it cannot be read.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "worker".to_owned())
}

/// Address of the interface that leads to the coordinator. No packet is sent:
/// connecting a datagram socket only asks the routing table.
async fn local_address(coordinator: &Uri) -> IpAddr {
    let fallback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let host = coordinator.host().unwrap_or("localhost").trim_matches(['[', ']']).to_owned();
    let port = coordinator.port_u16().unwrap_or(80);
    let Ok(addresses) = lookup_host((host, port)).await else { return fallback };
    for address in addresses {
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let Ok(socket) = UdpSocket::bind(any).await else { continue };
        if socket.connect(address).await.is_ok()
            && let Ok(local) = socket.local_addr()
        {
            return local.ip();
        }
    }
    fallback
}
