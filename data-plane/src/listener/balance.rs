//! Exact balance: a connection goes to the worker that has the fewest of its address (Envoy
//! `connection_balance_config.exact_balance`), whichever worker's socket the kernel gave it to.

use parking_lot::Mutex;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Connections on their way to a worker. One that finds no room is served where it was accepted.
const INBOX: usize = 1024;

/// The workers of one address.
#[derive(Debug, Default)]
pub(super) struct Balance {
    /// By worker, from 0; `None` for one that does not accept.
    seats: Mutex<Vec<Option<Seat>>>,
}

#[derive(Debug)]
struct Seat {
    connections: usize,
    inbox: mpsc::Sender<Passed>,
}

/// A connection that another worker accepted.
#[derive(Debug)]
pub(super) struct Passed {
    /// Of no runtime.
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) seated: Seated,
}

/// Which worker a connection counts for, until dropped.
#[derive(Debug)]
pub(super) struct Seated {
    balance: Arc<Balance>,
    worker: usize,
}

impl Seated {
    /// The worker, from 0.
    pub(super) fn worker(&self) -> usize {
        self.worker
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        let mut seats = self.balance.seats.lock();
        if let Some(Some(seat)) = seats.get_mut(self.worker) {
            seat.connections = seat.connections.saturating_sub(1);
        }
    }
}

impl Balance {
    /// A worker, from 0, accepts from now on; where what others pass to it comes out.
    pub(super) fn join(&self, worker: usize) -> mpsc::Receiver<Passed> {
        let (inbox, outlet) = mpsc::channel(INBOX);
        let mut seats = self.seats.lock();
        if seats.len() <= worker {
            seats.resize_with(worker + 1, || None);
        }
        seats[worker] = Some(Seat { connections: 0, inbox });
        outlet
    }

    /// Counts a connection for the worker with the fewest: for `here` rather than for another with as many.
    pub(super) fn seat(self: &Arc<Self>, here: usize) -> Seated {
        let mut seats = self.seats.lock();
        let open = seats.iter().enumerate().filter_map(|(worker, seat)| {
            let seat = seat.as_ref().filter(|seat| !seat.inbox.is_closed())?;
            Some((seat.connections, worker != here, worker))
        });
        let worker = open.min().map_or(here, |(_, _, worker)| worker);
        if let Some(Some(seat)) = seats.get_mut(worker) {
            seat.connections += 1;
        }
        Seated { balance: Arc::clone(self), worker }
    }

    /// Hands a connection to the worker that it is seated with.
    ///
    /// # Errors
    /// It is given back: that worker has no room for it, or accepts no more.
    pub(super) fn pass(&self, passed: Passed) -> Result<(), Passed> {
        use mpsc::error::TrySendError;
        let inbox = match self.seats.lock().get(passed.seated.worker) {
            Some(Some(seat)) => seat.inbox.clone(),
            _ => return Err(passed),
        };
        inbox.try_send(passed).map_err(|error| match error {
            TrySendError::Full(passed) | TrySendError::Closed(passed) => passed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts(balance: &Balance) -> Vec<usize> {
        balance.seats.lock().iter().flatten().map(|seat| seat.connections).collect()
    }

    proptest! {
        #[test]
        fn workers_never_differ_by_more_than_one_while_connections_come(
            workers in 1_usize..8, here in prop::collection::vec(0_usize..8, 1..100)
        ) {
            let balance = Arc::new(Balance::default());
            let _outlets: Vec<_> = (0..workers).map(|worker| balance.join(worker)).collect();
            let mut seated = Vec::new();
            for here in here {
                seated.push(balance.seat(here % workers));
                let counts = counts(&balance);
                let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
                prop_assert!(most - least <= 1, "{counts:?}");
                prop_assert_eq!(counts.iter().sum::<usize>(), seated.len());
            }
            drop(seated);
            prop_assert!(counts(&balance).iter().all(|count| *count == 0));
        }
    }

    #[test]
    fn a_worker_that_ended_is_passed_nothing() {
        let balance = Arc::new(Balance::default());
        let (_first, second) = (balance.join(0), balance.join(1));
        let one = balance.seat(0);
        drop(second);
        let two = balance.seat(0);
        assert_eq!((one.worker(), two.worker()), (0, 0));
    }
}
