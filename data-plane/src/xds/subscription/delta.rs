//! Incremental: subscriptions change by difference, resources carry versions of their own.

use super::{Interest, Pending};
use std::collections::{BTreeMap, BTreeSet};

/// One type on one delta stream after another.
#[derive(Debug, Default)]
pub struct Delta {
    interest: Interest,
    /// Versions of the resources applied; survives streams.
    held: BTreeMap<Box<str>, Box<str>>,
    stream: Option<Stream>,
    streams: u64,
    responses: u64,
}

#[derive(Debug, Default)]
struct Stream {
    opened: bool,
    /// Names subscribed on this stream.
    asked: BTreeSet<Box<str>>,
}

/// The varying parts of a `DeltaDiscoveryRequest`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeltaRequest {
    /// Names wanted from now on; none in a first request means all there is.
    pub subscribe: Vec<String>,
    /// Names not wanted any more.
    pub unsubscribe: Vec<String>,
    /// What is held already; in a stream's first request only.
    pub held: BTreeMap<String, String>,
    /// The response answered; empty when the request answers none.
    pub nonce: String,
    /// Why that response is refused.
    pub error: Option<String>,
}

/// What became of a delta response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeltaOutcome {
    /// Resources applied, with their versions.
    pub applied: Vec<(Box<str>, Box<str>)>,
    /// Resources gone.
    pub removed: Vec<Box<str>>,
    /// Why the rest is refused.
    pub error: Option<String>,
}

impl Delta {
    /// A stream opened. Returns its first request, unless nothing is wanted yet.
    pub fn open(&mut self) -> Option<DeltaRequest> {
        self.streams += 1;
        self.stream = Some(Stream::default());
        self.ask()
    }

    /// The stream ended.
    pub fn close(&mut self) {
        self.stream = None;
    }

    /// Something else is wanted from now on. What is no longer wanted counts as not held.
    pub fn set_interest(&mut self, interest: Interest) -> Option<DeltaRequest> {
        self.held.retain(|name, _| interest.covers(name));
        self.interest = interest;
        self.ask()
    }

    /// A response came.
    pub fn received(&mut self, nonce: String) -> Pending {
        self.responses += 1;
        Pending { stream: self.streams, response: self.responses, nonce }
    }

    /// A response was dealt with. Every response of the stream is answered, in the order in which they are settled.
    pub fn settled(&mut self, pending: Pending, outcome: DeltaOutcome) -> Option<DeltaRequest> {
        let DeltaOutcome { applied, removed, error } = outcome;
        for name in &removed {
            self.held.remove(name);
        }
        let interest = &self.interest;
        self.held.extend(applied.into_iter().filter(|(name, _)| interest.covers(name)));
        let current = self.stream.is_some() && pending.stream == self.streams;
        current.then(|| DeltaRequest { nonce: pending.nonce, error, ..DeltaRequest::default() })
    }

    /// Names and versions of the resources applied.
    pub fn held(&self) -> &BTreeMap<Box<str>, Box<str>> {
        &self.held
    }

    fn ask(&mut self) -> Option<DeltaRequest> {
        let stream = self.stream.as_mut()?;
        if !stream.opened && self.interest.is_empty() {
            return None;
        }
        let mut wanted = self.interest.names.clone();
        if self.interest.wildcard && !wanted.is_empty() {
            wanted.insert("*".into());
        }
        let request = DeltaRequest {
            subscribe: wanted.difference(&stream.asked).map(|n| n.to_string()).collect(),
            unsubscribe: stream.asked.difference(&wanted).map(|n| n.to_string()).collect(),
            held: match stream.opened {
                false => self.held.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect(),
                true => BTreeMap::new(),
            },
            ..DeltaRequest::default()
        };
        let first = !std::mem::replace(&mut stream.opened, true);
        stream.asked = wanted;
        (first || !request.subscribe.is_empty() || !request.unsubscribe.is_empty()).then_some(request)
    }
}
