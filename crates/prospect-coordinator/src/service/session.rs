//! One worker's conversation: what it says becomes commands for the event
//! loop, in order, until either side ends it. It lasts over generations; what belongs to
//! which is the machine's to judge.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prospect_core::{Incarnation, WorkerId};
use prospect_proto::{FromWorker, Refusal, WorkerMessage, v1};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tonic::{Status, Streaming};

use crate::shell::Command;

/// Messages that may wait for a worker. Far more than a run has under way: a
/// worker that lets them pile up has stopped reading.
pub(super) const OUTBOUND_CAPACITY: usize = 256;
/// How long a worker may take for its first message.
const HELLO_TIMEOUT: Duration = Duration::from_secs(30);

/// The way to a worker.
pub(crate) type Outbound = mpsc::Sender<Result<v1::SessionResponse, Status>>;

/// Number of a session in this process, by which a new one of a worker is told from its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionId(u64);

/// Who speaks in a session. Fixed by its first message.
struct Speaker {
    session: SessionId,
    worker: WorkerId,
    incarnation: Incarnation,
}

/// Carries a session from its first message to its end.
pub(super) async fn converse(
    mut inbound: Streaming<v1::SessionRequest>,
    outbound: Outbound,
    commands: mpsc::Sender<Command>,
) {
    let speaker = match greet(&mut inbound, &outbound, &commands).await {
        Ok(speaker) => speaker,
        Err(refusal) => {
            tracing::warn!(%refusal, "session refused");
            let _ = outbound.send(Err(refusal.into())).await;
            return;
        }
    };
    let cause = match listen(&mut inbound, &outbound, &commands, &speaker).await {
        Ok(cause) => cause,
        Err(refusal) => {
            let cause = refusal.to_string();
            let _ = outbound.try_send(Err(refusal.into()));
            cause
        }
    };
    let Speaker { session, worker, incarnation, .. } = speaker;
    // Nobody listens any more when the run has ended.
    let _ = commands.send(Command::Closed { session, worker, incarnation, cause }).await;
}

/// Takes the first message and asks whether the session may stand.
async fn greet(
    inbound: &mut Streaming<v1::SessionRequest>,
    outbound: &Outbound,
    commands: &mpsc::Sender<Command>,
) -> Result<Speaker, Refusal> {
    let out_of_order = |reason: &str| Refusal::OutOfOrder { reason: reason.to_owned() };
    let first = timeout(HELLO_TIMEOUT, inbound.message()).await;
    let request = match first {
        Ok(Ok(Some(request))) => FromWorker::try_from(request)?,
        Ok(Ok(None) | Err(_)) => return Err(out_of_order("the session ended before Hello")),
        Err(_) => return Err(out_of_order("no Hello within 30 seconds")),
    };
    let FromWorker { worker, incarnation, generation, message } = request;
    let WorkerMessage::Hello { weights } = message else {
        return Err(out_of_order("the first message of a session is Hello"));
    };
    let speaker = Speaker { session: SessionId::next(), worker, incarnation };
    let (reply, answer) = oneshot::channel();
    let open = Command::Open {
        session: speaker.session,
        worker: speaker.worker.clone(),
        incarnation: speaker.incarnation.clone(),
        generation,
        weights,
        outbound: outbound.clone(),
        reply,
    };
    commands.send(open).await.map_err(|_| Refusal::closing())?;
    answer.await.map_err(|_| Refusal::closing())??;
    Ok(speaker)
}

/// Passes messages on until the session ends; says how it ended.
async fn listen(
    inbound: &mut Streaming<v1::SessionRequest>,
    outbound: &Outbound,
    commands: &mpsc::Sender<Command>,
    speaker: &Speaker,
) -> Result<String, Refusal> {
    loop {
        let message = tokio::select! {
            message = inbound.message() => message,
            () = outbound.closed() => return Ok("the connection was lost".to_owned()),
        };
        let request = match message {
            Ok(Some(request)) => FromWorker::try_from(request)?,
            Ok(None) => return Ok("the worker ended the stream".to_owned()),
            Err(status) => return Ok(format!("the connection was lost ({})", status.message())),
        };
        speaker.check(&request)?;
        if commands.send(Command::Said { session: speaker.session, from: request }).await.is_err() {
            return Ok("the run has ended".to_owned());
        }
    }
}

impl SessionId {
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl Speaker {
    fn check(&self, request: &FromWorker) -> Result<(), Refusal> {
        if request.worker != self.worker {
            let reason = format!("a session of {} speaks for {}", self.worker, request.worker);
            return Err(Refusal::OutOfOrder { reason });
        }
        if request.incarnation != self.incarnation {
            return Err(Refusal::StaleIncarnation { worker: self.worker.clone() });
        }
        Ok(())
    }
}
