//! Taking a PROXY protocol header off a connection.

use super::peek::peek;
use super::stats::ProxyProtocolStats;
use data_plane_core::config::{ProxyProtocolFilter, ProxyProtocolVersion as Version};
use data_plane_core::proxy_protocol::{self, Ends, Extensions, Found, MAX_READ, Malformed, Wanted};
use std::io;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Bytes of extensions skipped at a time.
const SKIPPED: usize = 1024;

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It goes on; `None`: between its own ends.
    Passed(Option<Ends>),
    /// It may not go on; counted.
    Refused,
    /// The peer closed.
    Closed,
}

/// Takes the header off. No deadline: the caller owns it.
pub(super) async fn take(
    stream: &mut TcpStream,
    filter: &ProxyProtocolFilter,
    stats: &ProxyProtocolStats,
) -> io::Result<Taken> {
    // Without a header is a way on where that is allowed: what is not wanted is then not looked for, as in Envoy.
    let wanted =
        Wanted { v1: !(filter.disallow_v1 && filter.optional), v2: !(filter.disallow_v2 && filter.optional) };
    let disallowed = |version: &Version| match version {
        Version::V1 => filter.disallow_v1,
        Version::V2 => filter.disallow_v2,
    };
    let looked = peek(stream, MAX_READ, |bytes| {
        // The rest of what is not taken anyway is not looked at.
        let claimed =
            proxy_protocol::claimed(bytes).filter(|version| disallowed(version) && !filter.optional);
        match (claimed, proxy_protocol::read(bytes, wanted)) {
            (Some(version), _) => Some(Err(version)),
            (None, Ok(Found::Partial)) => None,
            (None, read) => Some(Ok(read)),
        }
    });
    let header = match looked.await? {
        None | Some(Ok(Ok(Found::Partial))) => return Ok(Taken::Closed),
        Some(Ok(Ok(Found::Header(header)))) => header,
        Some(Ok(Ok(Found::Absent))) if filter.optional => {
            stats.not_found_allowed.inc();
            return Ok(Taken::Passed(None));
        }
        Some(Ok(Ok(Found::Absent))) => {
            stats.not_found_disallowed.inc();
            return Ok(stats.refuse());
        }
        Some(Ok(Err(malformed))) => return Ok(stats.malformed(malformed)),
        // Envoy counts these as found, and not as errors.
        Some(Err(Version::V1)) => {
            stats.v1_found.inc();
            stats.v1_disallowed.inc();
            return Ok(Taken::Refused);
        }
        Some(Err(Version::V2)) => {
            stats.v2_found.inc();
            stats.v2_disallowed.inc();
            return Ok(Taken::Refused);
        }
    };
    let mut buffer = [0; SKIPPED];
    let mut left = header.length;
    while left > 0 {
        let most = left.min(SKIPPED);
        match stream.read(&mut buffer[..most]).await? {
            0 => return Ok(Taken::Closed),
            read => left -= read,
        }
    }
    let mut extensions = Extensions::of(&header);
    while extensions.left() > 0 {
        let most = extensions.left().min(SKIPPED);
        match stream.read(&mut buffer[..most]).await? {
            0 => return Ok(Taken::Closed),
            read => {
                if let Err(malformed) = extensions.take(&buffer[..read]) {
                    return Ok(stats.malformed(malformed));
                }
            }
        }
    }
    match header.version {
        Version::V1 => stats.v1_found.inc(),
        Version::V2 => stats.v2_found.inc(),
    }
    Ok(Taken::Passed(header.ends))
}

impl ProxyProtocolStats {
    fn refuse(&self) -> Taken {
        self.downstream_cx_proxy_proto_error.inc();
        Taken::Refused
    }

    fn malformed(&self, Malformed { version, reason }: Malformed) -> Taken {
        tracing::debug!(?version, reason, "a PROXY protocol header cannot be read");
        match version {
            Version::V1 => self.v1_error.inc(),
            Version::V2 => self.v2_error.inc(),
        }
        self.refuse()
    }
}
