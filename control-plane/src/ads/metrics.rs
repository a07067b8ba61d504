//! What streams count, by type. A change is counted for each of thousands of proxies, hence handles that are made once.

use std::sync::OnceLock;

use metrics::{Counter, counter, describe_counter, describe_gauge};
use xds_types::ResourceType;

use super::session::Kind;

/// Types that are served, in their order, and one place for all others: a client cannot make new labels.
const PLACES: usize = ResourceType::ALL.len() + 1;

/// Counters of all streams.
#[derive(Default)]
pub(super) struct Metrics {
    places: [OnceLock<Counters>; PLACES],
}

/// Counters of one type.
pub(super) struct Counters {
    pub pushes: Counter,
    pub push_bytes: Counter,
    pub acks: Counter,
    pub nacks: Counter,
    pub stale: Counter,
}

impl Metrics {
    pub(super) fn new() -> Self {
        describe_gauge!("xds_streams", "Discovery streams open, by dialect.");
        describe_counter!("xds_pushes_total", "Discovery responses sent, by type.");
        describe_counter!("xds_push_bytes_total", "Bytes of resources sent, by type.");
        describe_counter!("xds_acks_total", "Discovery responses accepted by clients, by type.");
        describe_counter!("xds_nacks_total", "Discovery responses refused by clients, by type.");
        describe_counter!("xds_stale_requests_total", "Requests ignored because of an old nonce, by type.");
        Self::default()
    }

    /// The counters of a type; they show from its first use on.
    pub(super) fn of(&self, kind: &Kind) -> &Counters {
        let (place, label) = match kind {
            Kind::Served(kind) => (*kind as usize, kind.short_name()),
            Kind::Other(_) => (PLACES - 1, "other"),
        };
        self.places[place].get_or_init(|| Counters {
            pushes: counter!("xds_pushes_total", "type" => label),
            push_bytes: counter!("xds_push_bytes_total", "type" => label),
            acks: counter!("xds_acks_total", "type" => label),
            nacks: counter!("xds_nacks_total", "type" => label),
            stale: counter!("xds_stale_requests_total", "type" => label),
        })
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}
