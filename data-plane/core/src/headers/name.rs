//! Well-known header names by id, so that looking one up compares a byte.

macro_rules! header_ids {
    ($($id:ident = $text:literal,)*) => {
        /// A header name the product itself reads or writes; [`HeaderId::Other`] for all else.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[allow(missing_docs, reason = "each is the header of that name")]
        pub enum HeaderId { Other, $($id,)* }

        impl HeaderId {
            /// Lowercase name; empty for `Other`.
            pub const fn as_str(self) -> &'static str {
                match self { Self::Other => "", $(Self::$id => $text,)* }
            }

            const ALL: &'static [HeaderId] = &[$(Self::$id,)*];

            /// Number of ids, `Other` included.
            pub const COUNT: usize = Self::ALL.len() + 1;
        }
    };
}

header_ids! {
    Accept = "accept",
    AcceptEncoding = "accept-encoding",
    Authorization = "authorization",
    Connection = "connection",
    ContentEncoding = "content-encoding",
    ContentLength = "content-length",
    ContentType = "content-type",
    Cookie = "cookie",
    Date = "date",
    Expect = "expect",
    GrpcMessage = "grpc-message",
    GrpcStatus = "grpc-status",
    GrpcTimeout = "grpc-timeout",
    Host = "host",
    Http2Settings = "http2-settings",
    KeepAlive = "keep-alive",
    Location = "location",
    ProxyConnection = "proxy-connection",
    Referer = "referer",
    Server = "server",
    Te = "te",
    Trailer = "trailer",
    TransferEncoding = "transfer-encoding",
    Upgrade = "upgrade",
    UserAgent = "user-agent",
    Via = "via",
    XEnvoyAttemptCount = "x-envoy-attempt-count",
    XEnvoyDecoratorOperation = "x-envoy-decorator-operation",
    XEnvoyDegraded = "x-envoy-degraded",
    XEnvoyDownstreamServiceCluster = "x-envoy-downstream-service-cluster",
    XEnvoyDownstreamServiceNode = "x-envoy-downstream-service-node",
    XEnvoyExpectedRqTimeoutMs = "x-envoy-expected-rq-timeout-ms",
    XEnvoyExternalAddress = "x-envoy-external-address",
    XEnvoyForceTrace = "x-envoy-force-trace",
    XEnvoyHedgeOnPerTryTimeout = "x-envoy-hedge-on-per-try-timeout",
    XEnvoyImmediateHealthCheckFail = "x-envoy-immediate-health-check-fail",
    XEnvoyInternal = "x-envoy-internal",
    XEnvoyIpTags = "x-envoy-ip-tags",
    XEnvoyIsTimeoutRetry = "x-envoy-is-timeout-retry",
    XEnvoyMaxRetries = "x-envoy-max-retries",
    XEnvoyOriginalHost = "x-envoy-original-host",
    XEnvoyOriginalPath = "x-envoy-original-path",
    XEnvoyOriginalUrl = "x-envoy-original-url",
    XEnvoyOverloaded = "x-envoy-overloaded",
    XEnvoyRetriableHeaderNames = "x-envoy-retriable-header-names",
    XEnvoyRetriableStatusCodes = "x-envoy-retriable-status-codes",
    XEnvoyRetryGrpcOn = "x-envoy-retry-grpc-on",
    XEnvoyRetryOn = "x-envoy-retry-on",
    XEnvoyUpstreamAltStatName = "x-envoy-upstream-alt-stat-name",
    XEnvoyUpstreamCanary = "x-envoy-upstream-canary",
    XEnvoyUpstreamRqPerTryTimeoutMs = "x-envoy-upstream-rq-per-try-timeout-ms",
    XEnvoyUpstreamRqTimeoutAltResponse = "x-envoy-upstream-rq-timeout-alt-response",
    XEnvoyUpstreamRqTimeoutMs = "x-envoy-upstream-rq-timeout-ms",
    XEnvoyUpstreamServiceTime = "x-envoy-upstream-service-time",
    XForwardedClientCert = "x-forwarded-client-cert",
    XForwardedFor = "x-forwarded-for",
    XForwardedHost = "x-forwarded-host",
    XForwardedPort = "x-forwarded-port",
    XForwardedProto = "x-forwarded-proto",
    XRequestId = "x-request-id",
}

/// A set of well-known names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeaderIds(u64);

const _: () = assert!(HeaderId::COUNT <= 64, "a set of well-known names is a u64");

impl HeaderIds {
    /// The set of `ids`.
    pub const fn of(ids: &[HeaderId]) -> Self {
        let (mut set, mut at) = (0, 0);
        while at < ids.len() {
            set |= 1 << ids[at] as u8;
            at += 1;
        }
        Self(set)
    }

    /// Those of both sets.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether `id` is one of them.
    pub const fn contains(self, id: HeaderId) -> bool {
        self.0 & 1 << id as u8 != 0
    }

    /// Whether the sets have any in common.
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) fn add(&mut self, id: HeaderId) {
        self.0 |= 1 << id as u8;
    }

    pub(super) fn remove(&mut self, id: HeaderId) {
        self.0 &= !(1 << id as u8);
    }
}

/// By which no two well-known names share a slot. Found by trying; when a new name needs another, the build says so.
const SEED: u32 = 0x1649_d405;
const SLOT_BITS: u32 = 9;

/// Where a name, which is not empty, is looked for: by its length and by three letters that, with the length, tell all
/// well-known names apart.
const fn slot(name: &[u8]) -> usize {
    let length = name.len();
    let letters = [name[length / 2], name[length * 3 / 4], name[length - 1], length as u8];
    // The bit that tells upper from lower case does not count.
    let key = u32::from_le_bytes(letters) | 0x0020_2020;
    (key.wrapping_mul(SEED) >> (u32::BITS - SLOT_BITS)) as usize
}

static TABLE: [HeaderId; 1 << SLOT_BITS] = {
    let mut table = [HeaderId::Other; 1 << SLOT_BITS];
    let mut at = 0;
    while at < HeaderId::ALL.len() {
        let slot = slot(HeaderId::ALL[at].as_str().as_bytes());
        assert!(matches!(table[slot], HeaderId::Other), "two names share a slot: try another seed");
        table[slot] = HeaderId::ALL[at];
        at += 1;
    }
    table
};

impl HeaderId {
    /// The id of `name` in any case; `Other` if it is not well known.
    pub fn of(name: &[u8]) -> Self {
        if name.is_empty() {
            return Self::Other;
        }
        let id = TABLE[slot(name)];
        let known = id.as_str().as_bytes();
        if known.len() == name.len() && is_same(known, name) { id } else { Self::Other }
    }
}

/// Whether `name` is `known`, which is in lower case and has letters, digits and hyphens only, in any case. Both are
/// of one length.
///
/// Eight bytes at a time: this is asked for every header.
fn is_same(known: &[u8], name: &[u8]) -> bool {
    let Some((known_end, name_end)) = known.last_chunk::<8>().zip(name.last_chunk::<8>()) else {
        return known.eq_ignore_ascii_case(name);
    };
    // What is left of whole words lies in the last eight bytes.
    let whole = known.chunks_exact(8).zip(name.chunks_exact(8)).fold(0, |differs, (k, n)| {
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        differs | word_differs(word(k), word(n))
    });
    whole | word_differs(u64::from_le_bytes(*known_end), u64::from_le_bytes(*name_end)) == 0
}

/// Bits by which eight bytes differ but for their case. The bit that tells the cases apart is set in all bytes of
/// `known`; other bytes that differ by it only are controls, which have neither that bit nor the one above.
fn word_differs(known: u64, name: u64) -> u64 {
    const CASE: u64 = 0x2020_2020_2020_2020;
    ((name | CASE) ^ known) | (!(name | name >> 1) & CASE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_as_without_case() {
        for id in HeaderId::ALL {
            let known = id.as_str().as_bytes();
            assert!(known.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b':')), "{id:?}");
            for at in 0..known.len() {
                for byte in 0..=u8::MAX {
                    let mut name = known.to_vec();
                    name[at] = byte;
                    assert_eq!(
                        is_same(known, &name),
                        known.eq_ignore_ascii_case(&name),
                        "{id:?} {at} {byte}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_well_known_name_is_found_in_any_case() {
        for id in HeaderId::ALL {
            assert_eq!(HeaderId::of(id.as_str().as_bytes()), *id);
            assert_eq!(HeaderId::of(id.as_str().to_uppercase().as_bytes()), *id);
        }
    }

    #[test]
    fn other_names_are_not() {
        let long = "x".repeat(10_000);
        for name in ["", "x", "hos", "hosts", "x-envoy-upstream-rq-timeout-alt-responsf", &long] {
            assert_eq!(HeaderId::of(name.as_bytes()), HeaderId::Other, "{name}");
        }
    }
}
