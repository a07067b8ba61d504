//! State of the world: the newest request replaces all before it.

use super::{Interest, Pending};

/// One type on one SotW stream after another.
#[derive(Debug, Default)]
pub struct Sotw {
    interest: Interest,
    /// Version of the last response applied in full; survives streams.
    accepted: String,
    stream: Option<Stream>,
    /// Streams and responses so far.
    streams: u64,
    responses: u64,
    /// The newest response settled, so that an older one settled late does not turn the version back.
    settled: u64,
}

#[derive(Debug, Default)]
struct Stream {
    /// Of the newest response.
    nonce: String,
    /// What the newest request asked for.
    asked: Option<Interest>,
    unanswered: bool,
}

/// The varying parts of a `DiscoveryRequest`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SotwRequest {
    /// All names wanted; empty for all there is.
    pub names: Vec<String>,
    /// Last accepted version.
    pub version: String,
    /// Newest nonce; empty in a stream's first request.
    pub nonce: String,
    /// Why the response of that nonce is refused.
    pub error: Option<String>,
}

impl Sotw {
    /// A stream opened. Returns its first request, unless nothing is wanted yet.
    pub fn open(&mut self) -> Option<SotwRequest> {
        self.streams += 1;
        self.stream = Some(Stream::default());
        self.ask()
    }

    /// The stream ended.
    pub fn close(&mut self) {
        self.stream = None;
    }

    /// Something else is wanted from now on.
    pub fn set_interest(&mut self, interest: Interest) -> Option<SotwRequest> {
        self.interest = interest;
        self.ask()
    }

    /// A response came.
    pub fn received(&mut self, nonce: String) -> Pending {
        self.responses += 1;
        if let Some(stream) = &mut self.stream {
            stream.nonce.clone_from(&nonce);
            stream.unanswered = true;
        }
        Pending { stream: self.streams, response: self.responses, nonce }
    }

    /// A response was dealt with: applied in full as `version`, or refused at least in part. Nothing is sent for
    /// one that a newer response has overtaken, or whose stream is gone.
    pub fn settled(&mut self, pending: Pending, outcome: Result<String, String>) -> Option<SotwRequest> {
        let newest = pending.response == self.responses;
        let in_order = pending.response > self.settled;
        self.settled = self.settled.max(pending.response);
        let error = match outcome {
            Ok(version) => {
                if in_order {
                    self.accepted = version;
                }
                None
            }
            Err(reason) => Some(reason),
        };
        let stream = self.stream.as_mut().filter(|_| newest && pending.stream == self.streams)?;
        stream.unanswered = false;
        stream.asked = Some(self.interest.clone());
        Some(self.request(error))
    }

    /// The last version applied in full.
    pub fn version(&self) -> &str {
        &self.accepted
    }

    fn ask(&mut self) -> Option<SotwRequest> {
        let stream = self.stream.as_mut()?;
        let news = match &stream.asked {
            // An empty list would ask for all there is.
            None => !self.interest.is_empty(),
            Some(asked) => *asked != self.interest,
        };
        if !news || stream.unanswered {
            return None;
        }
        stream.asked = Some(self.interest.clone());
        Some(self.request(None))
    }

    fn request(&self, error: Option<String>) -> SotwRequest {
        SotwRequest {
            names: self.interest.names.iter().map(|n| n.to_string()).collect(),
            version: self.accepted.clone(),
            nonce: self.stream.as_ref().map(|s| s.nonce.clone()).unwrap_or_default(),
            error,
        }
    }
}
