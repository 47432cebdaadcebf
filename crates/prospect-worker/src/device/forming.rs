//! Peers meet. That blocks for as long as one of them does not come, so it happens on a thread
//! of its own, which the device thread leaves behind when the world changes meanwhile.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use prospect_core::Generation;
use prospect_proto::WorkerMessage;

use super::mailbox::Mailbox;
use super::runner::{Break, Voice};
use super::{Formed, Place, Rendezvous, Setup};
use crate::WorkerError;
use crate::torch::{
    AbortHandle, Backend, Device, LibtorchError, ProcessGroup, TcpStore, use_device,
};

/// What a meeting needs.
struct Meeting {
    backend: Backend,
    device: Device,
    rendezvous: Rendezvous,
    /// The store that this worker hosts, as rank 0.
    hosted: Option<Arc<TcpStore>>,
    rank: usize,
    world_size: usize,
    timeout: Duration,
}

/// Hosts or finds the store of a generation and meets the other ranks.
pub(super) fn meet(
    setup: &Setup,
    place: &Place,
    mailbox: &Arc<Mailbox>,
    voice: &Voice,
) -> Result<Formed, Break> {
    let generation = voice.generation();
    let timeout = setup.terms.collective_timeout;
    let hosted = match place.rank.0 {
        0 => {
            let store = TcpStore::host(bind_address(&setup.host), 0, timeout)
                .map_err(WorkerError::Rendezvous)?;
            voice.say(WorkerMessage::StoreReady { host: setup.host.clone(), port: store.port() });
            Some(Arc::new(store))
        }
        _ => None,
    };
    let meeting = Meeting {
        backend: setup.backend,
        device: setup.device,
        rendezvous: mailbox.wait_rendezvous(generation)?,
        hosted,
        rank: place.rank.0 as usize,
        world_size: place.world_size as usize,
        timeout,
    };
    mailbox.begin_forming(generation)?;
    spawn(generation, meeting, Arc::clone(mailbox))?;
    Ok(mailbox.wait_formed()?.map_err(WorkerError::Rendezvous)?)
}

fn spawn(
    generation: Generation,
    meeting: Meeting,
    mailbox: Arc<Mailbox>,
) -> Result<(), WorkerError> {
    let thread = thread::Builder::new().name(format!("forming-{generation}"));
    let spawned = thread.spawn(move || {
        let may_begin = |abort| mailbox.meets(generation, abort);
        if let Some(outcome) = meeting.hold(may_begin).transpose() {
            mailbox.formed(generation, outcome);
        }
    });
    spawned.map(drop).map_err(|source| WorkerError::Thread { source })
}

impl Meeting {
    /// The group, once every rank has taken part in a first collective. It is begun if that
    /// `may_begin`, which is given what ends it.
    fn hold(
        self,
        may_begin: impl FnOnce(AbortHandle) -> bool,
    ) -> Result<Option<Formed>, LibtorchError> {
        let Self { backend, device, rendezvous, hosted, rank, world_size, timeout } = self;
        use_device(device)?;
        let store = match hosted {
            Some(store) => store,
            None => Arc::new(TcpStore::connect(&rendezvous.host, rendezvous.port, timeout)?),
        };
        let prefix = &rendezvous.prefix;
        let group = ProcessGroup::new(backend, &store, prefix, rank, world_size, timeout)?;
        if !may_begin(group.abort_handle()) {
            return Ok(None);
        }
        // Connections that are made with the first collective are made here, where a peer that
        // is gone holds up nobody else.
        group.barrier()?.wait()?;
        group.settle()?;
        Ok(Some(Formed { group, store }))
    }
}

/// Interface for rank 0's store: the host itself where it is an address, else all.
fn bind_address(host: &str) -> &str {
    if host.parse::<std::net::IpAddr>().is_ok() { host } else { "0.0.0.0" }
}
