//! The connection to the coordinator, which may be lost and found again.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use prospect_proto::v1;
use prospect_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::WorkerError;
use crate::connect::{Entrance, Line, Terms, Verdict};

/// A session that lasted this long, or in which the coordinator said something, has stood: its
/// loss begins a series of attempts of its own.
const STOOD: Duration = Duration::from_secs(5);

type Search = Pin<Box<dyn Future<Output = Result<Found, WorkerError>> + Send>>;

/// A session, or the search for one.
pub(super) enum Connection {
    /// The session stands.
    Up(Box<Standing>),
    /// It is looked for.
    Down(Search),
}

/// A session that stands.
pub(super) struct Standing {
    incoming: Streaming<v1::SessionResponse>,
    opened: Instant,
    /// Whether the coordinator said anything.
    was_heard: bool,
    /// The series of attempts that led here, where it was looked for.
    series: Option<Entrance>,
    /// The connection below it.
    _client: CoordinatorServiceClient<Channel>,
}

/// A session that was found again.
pub(super) struct Found {
    pub line: Line,
    pub terms: Terms,
    pub series: Entrance,
}

/// What happens on the connection.
pub(super) enum News {
    /// The coordinator said something.
    Said(v1::SessionResponse),
    /// The session ended.
    Ended(Verdict),
    /// The search was successful.
    Found(Box<Found>),
    /// The search is over.
    NotFound(WorkerError),
}

impl Connection {
    /// A session that has just been opened, after a `series` of attempts if it was looked for,
    /// and the way to speak on it.
    pub fn up(
        line: Line,
        series: Option<Entrance>,
    ) -> (Self, mpsc::UnboundedSender<v1::SessionRequest>) {
        let Line { outgoing, incoming, opened, client } = line;
        let standing = Standing { incoming, opened, was_heard: false, series, _client: client };
        (Self::Up(Box::new(standing)), outgoing)
    }

    /// Looks for the coordinator after a session ended by `cause`: in the series of attempts that
    /// led to it, unless it had stood; then in the one that `again` begins.
    pub fn search(&mut self, cause: WorkerError, again: impl FnOnce() -> Entrance) {
        let unfinished = match self {
            Self::Up(session) if !session.was_heard && session.opened.elapsed() < STOOD => {
                session.series.take()
            }
            _ => None,
        };
        let mut series = unfinished.unwrap_or_else(again);
        *self = Self::Down(Box::pin(async move {
            series.wait_after(cause).await?;
            let (line, terms) = series.enter().await?;
            Ok(Found { line, terms, series })
        }));
    }

    /// The next thing that happens. Nothing is lost when this is given up and called again.
    pub async fn news(&mut self) -> News {
        match self {
            Self::Up(session) => match session.incoming.message().await {
                Ok(Some(message)) => {
                    session.was_heard = true;
                    News::Said(message)
                }
                Ok(None) => {
                    News::Ended(Verdict::Lost { reason: "it ended the session".to_owned() })
                }
                Err(status) => News::Ended((&status).into()),
            },
            Self::Down(search) => match search.await {
                Ok(found) => News::Found(Box::new(found)),
                Err(error) => News::NotFound(error),
            },
        }
    }
}
