//! What an attempt passes before it is sent, and tells afterwards: our circuit breaker lets it through or not, and
//! outlier detection learns how the host did.
//!
//! [`Cluster::admit`] and [`Admission::finish`] cost a branch each where a cluster has neither.

use super::breaker::Breaker;
use super::cluster::Cluster;
use super::host::Host;
use data_plane_core::guard::circuit::Ticket;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The head of a response came.
    Response {
        /// Its status.
        status: u16,
        /// `grpc-status`, where the head of a gRPC response has it.
        grpc_status: Option<u32>,
    },
    /// A connection was made, and no more can be said: TCP without HTTP.
    Connected,
    /// The host refused the connection or cannot be reached, TLS included.
    ConnectFailure,
    /// The host did not accept the connection in time.
    ConnectTimeout,
    /// The connection ended, or the stream was reset, before a response; or what came was not one.
    Reset,
    /// No response within the route's or the attempt's timeout.
    Timeout,
    /// Says nothing about the host: the client left, one of our own limits was reached, or another attempt of the
    /// same request was first.
    Void,
}

impl Outcome {
    /// The status that stands for it (Envoy's mapping, also of gRPC codes); `None`: it says nothing.
    pub(super) fn status(self) -> Option<u16> {
        match self {
            Self::Response { status, grpc_status: None } => Some(status),
            Self::Response { grpc_status: Some(code), .. } => Some(http_status(code)),
            Self::Connected => Some(200),
            Self::ConnectFailure | Self::ConnectTimeout | Self::Reset => Some(503),
            Self::Timeout => Some(504),
            Self::Void => None,
        }
    }
}

/// Envoy's `grpcToHttpStatus`.
fn http_status(code: u32) -> u16 {
    match code {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

/// Why an attempt may not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The cluster's circuit breaker is open: answer 503 with the flag `UO` and the details
    /// `circuit_breaker_open`.
    BreakerOpen {
        /// When to try again, at the earliest.
        retry_after: Option<Duration>,
    },
}

/// An attempt that may be made. Dropped without [`Admission::finish`] it counts as [`Outcome::Void`].
#[derive(Debug)]
#[must_use = "an attempt that is not finished is not counted"]
pub struct Admission {
    breaker: Option<(Arc<Breaker>, Ticket)>,
}

impl Cluster {
    /// Asks for leave to make one attempt; `now` is the moment it starts at.
    ///
    /// # Errors
    /// It may not be made.
    #[inline]
    pub fn admit(&self, now: Instant) -> Result<Admission, Refused> {
        match &self.breaker {
            None => Ok(Admission { breaker: None }),
            Some(breaker) => match breaker.admit(now) {
                Ok(ticket) => Ok(Admission { breaker: Some((Arc::clone(breaker), ticket)) }),
                Err(wait) => Err(Refused::BreakerOpen { retry_after: Some(wait) }),
            },
        }
    }
}

impl Admission {
    /// The attempt ended so on `host`, `elapsed` after it was admitted.
    #[inline]
    pub fn finish(mut self, host: &Host, outcome: Outcome, elapsed: Duration) {
        if let Some(monitor) = host.monitor() {
            monitor.record(outcome);
        }
        if let Some((breaker, ticket)) = self.breaker.take() {
            breaker.finish(ticket, outcome, elapsed);
        }
    }
}

impl Drop for Admission {
    #[inline]
    fn drop(&mut self) {
        if let Some((breaker, ticket)) = self.breaker.take() {
            breaker.finish(ticket, Outcome::Void, Duration::ZERO);
        }
    }
}
