//! The reference point among threads.

use std::sync::{Arc, Barrier, Mutex, PoisonError};

use prospect_core::{KlSums, PartKlSums, ReferencePoint};
use prospect_train::{ExchangeError, ReferencePointExchange};

/// One rank's end.
pub struct Exchange {
    rank: usize,
    shared: Arc<(Mutex<Vec<Vec<PartKlSums>>>, Barrier)>,
}

impl Exchange {
    /// One for every rank.
    pub fn world(ranks: usize) -> Vec<Self> {
        let shared = Arc::new((Mutex::new(vec![Vec::new(); ranks]), Barrier::new(ranks)));
        (0..ranks).map(|rank| Self { rank, shared: Arc::clone(&shared) }).collect()
    }
}

impl ReferencePointExchange for Exchange {
    fn submit(&mut self, parts: Vec<PartKlSums>) -> Result<(), ExchangeError> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)[self.rank] = parts;
        Ok(())
    }

    fn wait(&mut self) -> Result<ReferencePoint, ExchangeError> {
        let (sums, all) = &*self.shared;
        all.wait();
        let mut merged = KlSums::default();
        let of_ranks = sums.lock().unwrap_or_else(PoisonError::into_inner);
        of_ranks.iter().flatten().for_each(|part| merged.merge(&part.sums));
        drop(of_ranks);
        // Nobody overwrites what another one still reads.
        all.wait();
        Ok(merged.reference_point())
    }
}
