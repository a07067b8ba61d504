//! The state-of-the-world dialect: each request says all names, each response of listeners and clusters is all
//! there is.

use std::collections::BTreeSet;
use std::sync::Arc;

use xds_types::ResourceType;

use super::session::Kind;
use super::subscription::{Answer, Subscription};
use crate::snapshot::Snapshot;

/// A request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Type of resources.
    pub type_url: String,
    /// Every name subscribed. Empty in every request so far: all, for listeners and clusters.
    pub names: Vec<String>,
    /// Nonce of the response that this answers; empty in the first request.
    pub nonce: String,
    /// Why that response is refused (point 1).
    pub error: Option<String>,
}

/// Whether a response is all there is: what it leaves out does not exist (points 11, 12).
pub(super) fn is_full_state(kind: &Kind) -> bool {
    matches!(kind, Kind::Served(ResourceType::Listener | ResourceType::Cluster))
}

/// Takes in a request. `None`: it is stale, and counts for nothing (point 3).
pub(super) fn read(
    sub: &mut Subscription,
    request: &Request,
    snapshot: Option<&Snapshot>,
) -> Option<Option<Answer>> {
    let nonce = match request.nonce.as_str() {
        "" => 0,
        text => text.parse().unwrap_or(0),
    };
    // A nonce from elsewhere on a type that was never answered: a client that has not understood that it is
    // on a new stream. Its names count.
    if nonce != sub.newest && sub.newest != 0 {
        return None;
    }
    let answer = sub.answered(nonce, request.error.is_some(), true);
    subscribe(sub, &request.names, snapshot);
    Some(answer)
}

fn subscribe(sub: &mut Subscription, names: &[String], snapshot: Option<&Snapshot>) {
    let wildcard = match names {
        [] => is_full_state(&sub.kind) && !sub.named, // [6]
        names => names.iter().any(|n| n == "*"),      // [7]
    };
    sub.named |= !names.is_empty();
    let wanted: BTreeSet<&str> = names.iter().map(String::as_str).filter(|n| *n != "*").collect();
    let dropped: Vec<Arc<str>> = sub.names.iter().filter(|n| !wanted.contains(&***n)).cloned().collect();
    if wildcard != sub.wildcard {
        sub.wildcard = wildcard;
        sub.owed |= wildcard; // [16]
        sub.mark_all();
        if !wildcard {
            let names: Vec<Arc<str>> = sub.known.keys().cloned().collect();
            for name in names.iter().filter(|n| !wanted.contains(&***n)) {
                sub.forget(name);
            }
        }
    }
    for name in dropped {
        sub.drop_name(&name);
        if wildcard {
            sub.mark(name);
        }
    }
    for name in wanted {
        if !sub.names.contains(name) {
            sub.add(sub.name(name, snapshot));
        }
    }
}
