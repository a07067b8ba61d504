//! The incremental dialect: requests and responses say what changes.

use std::collections::HashMap;
use std::sync::Arc;

use xds_types::ResourceType;

use super::session::Kind;
use super::subscription::{Answer, Known, Subscription, Told};
use crate::snapshot::Snapshot;

/// A request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Type of resources.
    pub type_url: String,
    /// Names to subscribe.
    pub subscribe: Vec<String>,
    /// Names to unsubscribe.
    pub unsubscribe: Vec<String>,
    /// Versions that the client has from an earlier stream; counts in the first request of a type only (point 15).
    pub initial_versions: HashMap<String, String>,
    /// Nonce of the response that this answers, if it answers one (point 4).
    pub nonce: String,
    /// Why that response is refused (point 1).
    pub error: Option<String>,
}

/// Takes in a request. Changes of the subscription count whatever the nonce (point 3).
pub(super) fn read(
    sub: &mut Subscription,
    request: &Request,
    first: bool,
    snapshot: Option<&Snapshot>,
) -> Option<Answer> {
    let answer = match request.nonce.parse() {
        Ok(nonce) => sub.answered(nonce, request.error.is_some(), false),
        Err(_) => None,
    };
    let by_wildcard = matches!(sub.kind, Kind::Served(ResourceType::Listener | ResourceType::Cluster));
    let all = request.subscribe.iter().any(|n| n == "*");
    let legacy = first && by_wildcard && request.subscribe.is_empty(); // [6]
    if all || (legacy && !sub.wildcard) {
        sub.wildcard = true;
        sub.owed = true; // [16]
        sub.mark_all();
    }
    for name in request.unsubscribe.iter().filter(|n| *n != "*") {
        let name: Arc<str> = name.as_str().into();
        sub.drop_name(&name);
        if sub.wildcard {
            // [8] The client has thrown it away, and must hear of it again as one of all.
            sub.known.insert(name.clone(), Known::unsure());
            sub.refused.remove(&name);
            sub.forced.insert(name.clone());
            sub.mark(name);
        }
    }
    if request.unsubscribe.iter().any(|n| n == "*") && sub.wildcard {
        sub.wildcard = false;
        let names: Vec<Arc<str>> = sub.known.keys().filter(|n| !sub.names.contains(*n)).cloned().collect();
        names.iter().for_each(|name| sub.forget(name));
    }
    if first {
        for (name, version) in &request.initial_versions {
            let current = match (&sub.kind, snapshot) {
                (Kind::Served(kind), Some(snapshot)) => snapshot.get(*kind, name),
                _ => None,
            };
            sub.has_version(sub.name(name, snapshot), version, current);
        }
        sub.mark_all(); // names of earlier versions that exist no more are to be removed [15]
    }
    for name in request.subscribe.iter().filter(|n| *n != "*") {
        let name = sub.name(name, snapshot);
        let held =
            first && sub.known.get(&name).is_some_and(|k| matches!(k.told, Told::Is(_) | Told::Was(_)));
        sub.add(name.clone());
        if held {
            sub.forced.remove(&name); // [9] only this excuses from sending
        } else if let Some(known) = sub.known.get_mut(&name)
            && matches!(known.told, Told::Gone)
        {
            known.told = Told::Unsure; // asked again, told again
        }
    }
    sub.named = true;
    answer
}
