//! Which requests are traced, and why (Envoy `Tracing` of the connection manager, and its request ids).
//!
//! The reason travels in the version digit of a UUID request id, so that all proxies on the way decide alike, and
//! shares are taken of the id's first digits for the same end.

use crate::config::{Sampler, Sampling};
use crate::headers::{HeaderId, HeaderList};

/// Why a request is traced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reason {
    /// It is not.
    #[default]
    NotTraceable,
    /// It fell into the random share.
    Sampling,
    /// The service asked for it (`x-envoy-force-trace`).
    ServiceForced,
    /// The client asked for it (`x-client-trace-id`).
    ClientForced,
}

/// Where the reason stands in a UUID.
const REASON_AT: usize = 14;
/// Length of a UUID.
const UUID: usize = 36;

impl Reason {
    fn digit(self) -> u8 {
        match self {
            Self::NotTraceable => b'4',
            Self::Sampling => b'9',
            Self::ServiceForced => b'a',
            Self::ClientForced => b'b',
        }
    }

    /// What a request id says.
    fn of(request_id: &[u8]) -> Self {
        match request_id.get(REASON_AT).filter(|_| request_id.len() == UUID) {
            Some(b'9') => Self::Sampling,
            Some(b'a') => Self::ServiceForced,
            Some(b'b') => Self::ClientForced,
            _ => Self::NotTraceable,
        }
    }
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Record, unless the caller's headers say otherwise.
    pub traced: bool,
    /// Why.
    pub reason: Reason,
}

/// Decides, and writes the reason into `x-request-id`. `pack`: the id may be changed
/// (`UuidRequestIdConfig.pack_trace_reason`); `by_id`: shares are taken of it
/// (`use_request_id_for_trace_sampling`), else everything is left to the tracer. Without a UUID there is no trace.
pub fn decide(headers: &mut HeaderList, shares: Sampling, pack: bool, by_id: bool, random: u64) -> Decision {
    if !by_id {
        return Decision { traced: true, reason: Reason::Sampling };
    }
    let Some((said, place)) = headers.get_id(HeaderId::XRequestId).and_then(read) else {
        return Decision { traced: false, reason: Reason::NotTraceable };
    };
    let takes = |share: u32, place: u32| place < share;
    let mut reason = said;
    if said == Reason::NotTraceable {
        if headers.contains(b"x-client-trace-id") && takes(shares.client, (random % 1_000_000) as u32) {
            reason = Reason::ClientForced;
        } else if headers.contains_id(HeaderId::XEnvoyForceTrace) {
            reason = Reason::ServiceForced;
        } else if takes(shares.random, place) {
            reason = Reason::Sampling;
        }
    }
    if reason != Reason::NotTraceable && !takes(shares.overall, place) {
        reason = Reason::NotTraceable;
    }
    if pack && reason != said {
        let mut id = [0; UUID];
        id.copy_from_slice(headers.get_id(HeaderId::XRequestId).unwrap_or(&[0; UUID]));
        id[REASON_AT] = reason.digit();
        headers.set_id(HeaderId::XRequestId, &id);
    }
    Decision { traced: reason != Reason::NotTraceable, reason }
}

/// The reason in an id, and its place among all ids in millionths (by steps of a hundred, as Envoy's).
fn read(id: &[u8]) -> Option<(Reason, u32)> {
    if id.len() != UUID {
        return None;
    }
    let first = super::hex(&id[..8], 8)?;
    Some((Reason::of(id), (first % 10_000) as u32 * 100))
}

/// Whether `sampler` records a span of the trace. `parent`: whether the caller records.
pub fn samples(sampler: &Sampler, trace_id: u128, parent: Option<bool>) -> bool {
    match sampler {
        Sampler::AlwaysOn => true,
        // OpenTelemetry's rule: the low 64 bits against the share of them.
        Sampler::TraceIdRatio(share) => u128::from(trace_id as u64) < (u128::from(*share) << 64) / 1_000_000,
        Sampler::ParentBased(root) => parent.unwrap_or_else(|| samples(root, trace_id, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Sampling = Sampling { client: 1_000_000, random: 1_000_000, overall: 1_000_000 };
    const NONE: Sampling = Sampling { client: 0, random: 0, overall: 1_000_000 };

    fn headers(list: &[(&str, &str)]) -> HeaderList {
        let mut headers = HeaderList::default();
        for (name, value) in list {
            headers.append(name.as_bytes(), value.as_bytes());
        }
        headers
    }

    fn id(digit: char) -> String {
        format!("0000004d-0000-{digit}000-8000-000000000000")
    }

    fn decided(list: &[(&str, &str)], digit: char, shares: Sampling) -> (Reason, char) {
        let mut headers = headers(list);
        headers.set_id(HeaderId::XRequestId, id(digit).as_bytes());
        let Decision { traced, reason } = decide(&mut headers, shares, true, true, 7);
        assert_eq!(traced, reason != Reason::NotTraceable);
        let written = headers.get_id(HeaderId::XRequestId).unwrap();
        (reason, char::from(written[REASON_AT]))
    }

    #[test]
    fn the_reason_is_written_into_the_request_id() {
        let client = [("x-client-trace-id", "1")];
        let forced = [("x-envoy-force-trace", "true")];
        for (list, digit, shares, want) in [
            (&[][..], '4', ALL, (Reason::Sampling, '9')),
            (&[], '4', NONE, (Reason::NotTraceable, '4')),
            (&client, '4', ALL, (Reason::ClientForced, 'b')),
            (&client, '4', NONE, (Reason::NotTraceable, '4')),
            (&forced, '4', NONE, (Reason::ServiceForced, 'a')),
            (&[], '9', NONE, (Reason::Sampling, '9')),
            (&client, '9', ALL, (Reason::Sampling, '9')),
            (&[], 'b', Sampling { overall: 0, ..ALL }, (Reason::NotTraceable, '4')),
            (&forced, '4', Sampling { overall: 0, ..ALL }, (Reason::NotTraceable, '4')),
        ] {
            assert_eq!(decided(list, digit, shares), want, "{list:?} {digit} {shares:?}");
        }
    }

    #[test]
    fn a_share_is_taken_by_the_first_digits_of_the_id() {
        // 0x4d = 77 of 10,000.
        assert_eq!(decided(&[], '4', Sampling { random: 7_700, ..ALL }).0, Reason::NotTraceable);
        assert_eq!(decided(&[], '4', Sampling { random: 7_701, ..ALL }).0, Reason::Sampling);
    }

    #[test]
    fn without_a_uuid_there_is_no_trace() {
        for list in
            [&[][..], &[("x-request-id", "abc")], &[("x-request-id", "zz00004d-0000-4000-8000-000000000000")]]
        {
            let mut headers = headers(list);
            assert!(!decide(&mut headers, ALL, true, true, 7).traced, "{list:?}");
        }
    }

    #[test]
    fn an_id_may_be_left_as_it_is() {
        let mut headers = headers(&[("x-request-id", &id('4'))]);
        assert!(decide(&mut headers, ALL, false, true, 7).traced);
        assert_eq!(headers.get_id(HeaderId::XRequestId), Some(id('4').as_bytes()));
        assert!(decide(&mut HeaderList::default(), NONE, false, false, 7).traced, "the tracer decides");
    }

    #[test]
    fn samplers_follow_the_parent_or_the_share() {
        let half = Sampler::TraceIdRatio(500_000);
        let taken = (0..1_000u64).filter(|&i| {
            let id = u128::from(i.wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 7 << 64;
            samples(&half, id, None)
        });
        assert!((450..550).contains(&taken.count()));
        let parent = Sampler::ParentBased(Box::new(Sampler::TraceIdRatio(0)));
        assert!(samples(&parent, 1, Some(true)));
        assert!(!samples(&parent, 1, None));
        assert!(!samples(&Sampler::ParentBased(Box::new(Sampler::AlwaysOn)), 1, Some(false)));
    }
}
