//! The reference point among threads.

use std::sync::{Arc, Condvar, Mutex};

use prospect_core::{KlSums, PartKlSums, ReferencePoint, Shard, Step};

use crate::{ExchangeError, ReferencePointExchange};

/// Adds the sums of all threads in the order of their parts.
pub(super) struct ThreadExchange {
    rank: usize,
    shared: Arc<(Mutex<Round>, Condvar)>,
    /// What came back, in order.
    pub(super) points: Vec<ReferencePoint>,
    /// Done once when the next reference point has come.
    pub(super) then: Option<Box<dyn FnOnce() + Send>>,
    /// The shard that has come before its time.
    pub(super) next: Option<Shard>,
}

/// The sums of one step. A rank submits again only after it waited, so at most one rank's
/// answer is outstanding when the next round begins.
struct Round {
    sums: Vec<Option<Vec<PartKlSums>>>,
    point: Option<ReferencePoint>,
    num_waiting: usize,
}

impl ThreadExchange {
    pub(super) fn world(world_size: usize) -> Vec<Self> {
        let round = Round { sums: vec![None; world_size], point: None, num_waiting: 0 };
        let shared = Arc::new((Mutex::new(round), Condvar::new()));
        (0..world_size)
            .map(|rank| Self {
                rank,
                shared: Arc::clone(&shared),
                points: Vec::new(),
                then: None,
                next: None,
            })
            .collect()
    }
}

impl ReferencePointExchange for ThreadExchange {
    fn submit(&mut self, parts: Vec<PartKlSums>) -> Result<(), ExchangeError> {
        let (round, changed) = &*self.shared;
        let mut round = round.lock().unwrap();
        while round.point.is_some() {
            round = changed.wait(round).unwrap();
        }
        round.sums[self.rank] = Some(parts);
        if round.sums.iter().all(Option::is_some) {
            let mut parts: Vec<PartKlSums> =
                round.sums.iter_mut().flat_map(|parts| parts.take().unwrap()).collect();
            parts.sort_by_key(|part| part.part);
            let mut total = KlSums::default();
            parts.iter().for_each(|part| total.merge(&part.sums));
            round.point = Some(total.reference_point());
            round.num_waiting = round.sums.len();
            changed.notify_all();
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<ReferencePoint, ExchangeError> {
        let (round, changed) = &*self.shared;
        let mut round = round.lock().unwrap();
        while round.point.is_none() {
            round = changed.wait(round).unwrap();
        }
        let point = round.point.unwrap();
        round.num_waiting -= 1;
        if round.num_waiting == 0 {
            round.point = None;
            changed.notify_all();
        }
        self.points.push(point);
        if let Some(then) = self.then.take() {
            then();
        }
        Ok(point)
    }

    fn shard_after(&mut self, _step: Step) -> Option<Box<Shard>> {
        self.next.take().map(Box::new)
    }
}
