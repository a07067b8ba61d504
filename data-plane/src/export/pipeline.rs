//! One exporter on the export thread: takes items, makes batches, sends them, and decides what becomes of those that
//! do not get through.

use super::knobs::Knobs;
use super::letters::Letters;
use super::queue::{Entry, Shared};
use super::send::{Failure, Target};
use super::stats::Stats;
use super::{Encode, Item};
use crate::task::{Phase, Shutdown};
use crate::upstream::{Clusters, Local};
use bytes::Bytes;
use data_plane_core::guard::Backoff;
use data_plane_core::guard::circuit::{self, Call, Change, Circuit, State, Ticket};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

/// How long is tried to deliver what is left when the proxy ends.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What an exporter runs with.
pub(super) struct Pipeline<T> {
    pub(super) shared: Arc<Shared<T>>,
    pub(super) target: Target,
    pub(super) encoder: Box<dyn Encode<T>>,
    pub(super) clusters: Clusters,
    pub(super) pools: Rc<Local>,
    pub(super) shutdown: Shutdown,
}

/// A request's body in the making or on its way.
#[derive(Clone)]
struct Batch {
    body: Bytes,
    items: u64,
    /// Since when its first item waited.
    since: Instant,
    /// It is the dead letter of that number.
    letter: Option<u64>,
    tries: u32,
}

/// A batch that is back.
struct Returned {
    batch: Batch,
    ticket: Ticket,
    took: Duration,
    result: Result<(), Failure>,
}

type Sending = Pin<Box<dyn Future<Output = Returned>>>;

/// What an exporter keeps while it runs.
struct Run<T> {
    pipeline: Pipeline<T>,
    target: Rc<Target>,
    knobs: Knobs,
    /// Made, and not yet taken by the collector; oldest first.
    ready: VecDeque<Batch>,
    sending: FuturesUnordered<Sending>,
    /// A letter is on its way.
    replaying: bool,
    circuit: Circuit,
    backoff: Backoff,
    /// Nothing is sent before.
    not_before: Option<Instant>,
    letters: Option<Letters>,
    began: Instant,
}

impl<T: Item> Pipeline<T> {
    /// Runs until its queues are closed or the proxy ends, and all is sent or given up.
    pub(super) async fn run(self) {
        let knobs = self.shared.status.knobs.clone();
        let letters = open_letters(&knobs, &self.shared.status.name);
        let circuit = Circuit::new(circuit::Options {
            consecutive_failures: Some(knobs.breaker_failures),
            open_time: knobs.breaker_open.0,
            max_open_time: knobs.breaker_open.1.max(knobs.breaker_open.0),
            probes: 1,
            ..circuit::Options::default()
        });
        let run = Run {
            target: Rc::new(self.target.clone()),
            backoff: Backoff::new(knobs.retry.0, knobs.retry.1.max(knobs.retry.0)),
            pipeline: self,
            knobs,
            ready: VecDeque::new(),
            sending: FuturesUnordered::new(),
            replaying: false,
            circuit,
            not_before: None,
            letters,
            began: Instant::now(),
        };
        run.run().await;
    }
}

fn open_letters(knobs: &Knobs, name: &str) -> Option<Letters> {
    let folder = knobs.dead_letter_dir.as_ref()?.join(name);
    match Letters::open(&folder, knobs.dead_letter_bytes) {
        Ok(letters) => Some(letters),
        Err(error) => {
            warn!(folder = %folder.display(), %error, "no dead letters are kept");
            None
        }
    }
}

impl<T: Item> Run<T> {
    async fn run(mut self) {
        let shared = Arc::clone(&self.pipeline.shared);
        let mut shutdown = self.pipeline.shutdown.clone();
        let mut ticks = interval(self.knobs.flush_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let retry = self.not_before;
            let again = async {
                match retry {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // All are cancel safe: a tick, a permit or a result that is not taken is there the next time.
            let end = tokio::select! {
                () = shutdown.reached(Phase::Stopped) => true,
                Some(returned) = self.sending.next(), if !self.sending.is_empty() => {
                    self.returned(returned);
                    self.dispatch();
                    false
                }
                _ = ticks.tick() => {
                    self.gather(true);
                    self.expire();
                    self.dispatch();
                    self.replay();
                    false
                }
                () = shared.wake.notified() => {
                    self.gather(false);
                    self.dispatch();
                    shared.closed.load(Relaxed)
                }
                () = again => {
                    self.not_before = None;
                    self.dispatch();
                    false
                }
            };
            self.publish();
            if end {
                return self.finish().await;
            }
        }
    }

    /// Makes batches of what waits; of all of it, or of whole ones only.
    fn gather(&mut self, all: bool) {
        let shared = Arc::clone(&self.pipeline.shared);
        loop {
            // Half of the memory is left to the queues: a collector that is away must not hold it all in batches.
            let room = self.ready.is_empty() || shared.held() < self.knobs.memory_bytes / 2;
            if !room || (!all && shared.depth() < self.knobs.batch_entries) {
                return;
            }
            let entries = shared.take(&self.knobs);
            let Some(since) = entries.iter().map(|entry| entry.since).min() else { return };
            let bytes: usize = entries.iter().map(|entry| entry.bytes).sum();
            let items: Vec<T> = entries.into_iter().map(|Entry { item, .. }| item).collect();
            let body = self.pipeline.encoder.encode(&items);
            shared.hold(body.len());
            shared.release(bytes);
            let stats = self.stats();
            stats.batch_size.record(items.len() as u64);
            stats.batch_bytes.record(body.len() as u64);
            self.ready.push_back(Batch { body, items: items.len() as u64, since, letter: None, tries: 0 });
        }
    }

    /// Gives up batches that are too old.
    fn expire(&mut self) {
        let now = Instant::now();
        while let Some(batch) =
            self.ready.pop_front_if(|batch| now.duration_since(batch.since) > self.knobs.ttl)
        {
            self.stats().dropped_expired.add(batch.items);
            self.bury(batch);
        }
    }

    /// Sends what may be sent now.
    fn dispatch(&mut self) {
        while self.sending.len() < self.knobs.in_flight
            && self.not_before.is_none_or(|at| at <= Instant::now())
            && let Some(batch) = self.ready.pop_front()
        {
            if let Err(batch) = self.send(batch) {
                self.ready.push_front(batch);
                return;
            }
        }
    }

    /// Sends a letter where there is nothing else to do; while the breaker is open it is the probe.
    fn replay(&mut self) {
        let quiet = self.ready.is_empty() && self.not_before.is_none_or(|at| at <= Instant::now());
        if !quiet || self.replaying || !self.knobs.replay || self.sending.len() >= self.knobs.in_flight {
            return;
        }
        let Some((number, body)) = self.letters.as_mut().and_then(Letters::oldest) else { return };
        let batch = Batch { body, items: 0, since: Instant::now(), letter: Some(number), tries: 0 };
        self.pipeline.shared.hold(batch.body.len());
        self.replaying = true;
        if let Err(batch) = self.send(batch) {
            self.replaying = false;
            self.pipeline.shared.release(batch.body.len());
        }
    }

    /// Starts sending a batch, if the breaker lets it.
    fn send(&mut self, mut batch: Batch) -> Result<(), Batch> {
        let ticket = match self.circuit.admit(self.began.elapsed()) {
            Ok((ticket, _)) => ticket,
            Err(wait) => {
                self.not_before = Some(Instant::now() + wait);
                return Err(batch);
            }
        };
        let mut limit = self.target.timeout.unwrap_or(self.knobs.timeout);
        if self.circuit.state() == State::HalfOpen {
            // A probe that hangs must not hold up the next beyond an interval.
            limit = limit.min(self.knobs.flush_interval);
        }
        if batch.tries > 0 {
            self.stats().retries.inc();
        }
        batch.tries += 1;
        let (target, pools) = (Rc::clone(&self.target), Rc::clone(&self.pipeline.pools));
        let clusters = self.pipeline.clusters.clone();
        self.sending.push(Box::pin(async move {
            let begun = Instant::now();
            let sent = timeout(limit, target.send(&clusters, &pools, batch.body.clone())).await;
            let late = || Failure { retry: true, reason: format!("no answer within {limit:?}") };
            let result = sent.unwrap_or_else(|_| Err(late()));
            Returned { batch, ticket, took: begun.elapsed(), result }
        }));
        Ok(())
    }

    fn returned(&mut self, returned: Returned) {
        let Returned { batch, ticket, took, result } = returned;
        let stats = self.stats().clone();
        stats.latency_ms.record(took.as_millis() as u64);
        // A collector that refuses a batch is there.
        let call = match &result {
            Err(failure) if failure.retry => Call::Failure,
            _ => Call::Success,
        };
        let change = self.circuit.finish(ticket, call, took, self.began.elapsed(), fastrand::u64(..));
        self.changed(change, result.as_ref().err());
        self.pipeline.shared.status.result(result.as_ref().err().map(|failure| failure.reason.as_str()));
        if batch.letter.is_some() {
            self.replaying = false;
        }
        match result {
            Ok(()) => {
                self.backoff.reset();
                self.not_before = None;
                stats.batches_sent.inc();
                stats.items_sent.add(batch.items);
                self.pipeline.shared.release(batch.body.len());
                if let (Some(number), Some(letters)) = (batch.letter, &mut self.letters) {
                    stats.dead_letters_replayed.inc();
                    if let Err(error) = letters.remove(number) {
                        warn!(%error, "a dead letter that was delivered cannot be removed");
                    }
                }
            }
            Err(failure) if failure.retry => {
                stats.batches_failed.inc();
                let wait = Instant::now() + self.backoff.next(fastrand::u64(..));
                self.not_before = Some(self.not_before.map_or(wait, |at| at.max(wait)));
                if batch.letter.is_some() {
                    // It is in its file still.
                    self.pipeline.shared.release(batch.body.len());
                } else {
                    self.put_back(batch);
                }
            }
            Err(failure) => {
                stats.batches_rejected.inc();
                stats.dropped_rejected.add(batch.items);
                warn!(exporter = self.name(), reason = failure.reason, "the collector refuses a batch");
                self.pipeline.shared.release(batch.body.len());
                // Another try would end in the same way.
                if let (Some(number), Some(letters)) = (batch.letter, &mut self.letters) {
                    // Forgotten in any case.
                    _ = letters.remove(number);
                }
            }
        }
    }

    /// In its place by age.
    fn put_back(&mut self, batch: Batch) {
        let at = self.ready.iter().take_while(|other| other.since <= batch.since).count();
        self.ready.insert(at, batch);
    }

    fn changed(&self, change: Option<Change>, failure: Option<&Failure>) {
        match change {
            Some(Change::Opened { wait, .. }) => {
                self.stats().breaker_opened.inc();
                let reason = failure.map(|failure| &*failure.reason).unwrap_or_default();
                if self.circuit_was_closed() {
                    warn!(
                        exporter = self.name(),
                        reason,
                        ?wait,
                        "the collector fails; nothing is sent for a while"
                    );
                }
            }
            Some(Change::Closed) => info!(exporter = self.name(), "the collector is back"),
            Some(Change::HalfOpened) | None => {}
        }
    }

    fn circuit_was_closed(&self) -> bool {
        self.pipeline.shared.status.stats.breaker_state.value() == 0
    }

    /// A batch that is not sent any more: into a file, or away.
    fn bury(&mut self, batch: Batch) {
        let stats = self.stats().clone();
        self.pipeline.shared.release(batch.body.len());
        let Some(letters) = &mut self.letters else { return };
        match letters.keep(&batch.body) {
            Ok(kept) => {
                stats.dead_letters.inc();
                stats.dead_letters_overwritten.add(kept.overwritten);
            }
            Err(error) => {
                stats.dead_letters_failed.inc();
                warn!(exporter = self.name(), %error, "a batch cannot be kept");
            }
        }
    }

    /// Sends what is left, for a short time.
    async fn finish(mut self) {
        let deadline = Instant::now() + LAST_WORDS;
        loop {
            self.gather(true);
            self.dispatch();
            if self.sending.is_empty() {
                break;
            }
            let next = tokio::time::timeout_at(deadline, self.sending.next()).await;
            let Ok(Some(returned)) = next else { break };
            self.returned(returned);
        }
        for batch in std::mem::take(&mut self.ready) {
            self.stats().dropped_at_end.add(batch.items);
            self.bury(batch);
        }
        self.publish();
    }

    fn publish(&self) {
        let (shared, stats) = (&self.pipeline.shared, self.stats());
        stats
            .queue_depth
            .set(shared.depth() as u64 + self.ready.iter().map(|batch| batch.items).sum::<u64>());
        stats.queue_bytes.set(shared.held() as u64);
        stats.in_flight.set(self.sending.len() as u64);
        stats.breaker_state.set(match self.circuit.state() {
            State::Closed => 0,
            State::HalfOpen => 1,
            State::Open => 2,
        });
        stats.dead_letter_bytes.set(self.letters.as_ref().map_or(0, Letters::bytes));
    }

    fn stats(&self) -> &Stats {
        &self.pipeline.shared.status.stats
    }

    fn name(&self) -> &str {
        &self.pipeline.shared.status.name
    }
}
