//! Where a request comes from: x-forwarded-*, x-envoy-internal, x-request-id, via.
//!
//! Called once a request by the connection manager, before routing. As Envoy's
//! `configuration/http/http_conn_man/headers` and its connection manager do it.

use super::{HeaderId, HeaderList, RequestHead, Scheme};
use ipnet::IpNet;
use smallvec::SmallVec;
use std::fmt::{self, Write};
use std::net::{IpAddr, SocketAddr};

/// A header value in the making; one of usual length is not allocated.
type List = SmallVec<[u8; 128]>;

/// The connection manager's rules, made once from its configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The peer is the client: this proxy is an edge.
    pub use_remote_address: bool,
    /// Trusted proxies in front of this one.
    pub xff_num_trusted_hops: u32,
    /// Leave x-forwarded-for alone.
    pub skip_xff_append: bool,
    /// Set x-forwarded-port when absent.
    pub append_x_forwarded_port: bool,
    /// Appended to `via`; empty: not.
    pub via: Box<str>,
    /// Make x-request-id when missing.
    pub generate_request_id: bool,
    /// Keep an external client's x-request-id.
    pub preserve_external_request_id: bool,
    /// Overrides `:scheme` and x-forwarded-proto (`scheme_header_transformation`).
    pub scheme: Option<Scheme>,
    /// Addresses of the inside (`internal_address_config`). Default none: Envoy 1.40 trusts no address, private
    /// ones neither, unless told.
    pub internal_ranges: Box<[IpNet]>,
    /// `add_user_agent`: the names told to upstreams; `None`: off.
    pub user_agent: Option<UserAgent>,
}

impl Rules {
    fn is_internal(&self, address: IpAddr) -> bool {
        let address = unmapped(address);
        self.internal_ranges.iter().any(|range| range.contains(&address))
    }
}

/// Who this proxy says it is (Envoy `add_user_agent`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserAgent {
    /// `--service-cluster`.
    pub cluster: Box<str>,
    /// `--service-node`; may be empty.
    pub node: Box<str>,
}

/// What the connection tells of a request.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// The peer, as restored by listener filters.
    pub peer: SocketAddr,
    /// Where it connected to.
    pub local: SocketAddr,
    /// Whether it is encrypted.
    pub is_tls: bool,
    /// The address of this machine that is put into x-forwarded-for in place of a loopback peer.
    pub interface: Option<IpAddr>,
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The client as far as it can be trusted. Port 0 when it comes from x-forwarded-for.
    pub client: SocketAddr,
    /// From inside: x-envoy-internal is set.
    pub internal: bool,
}

/// Headers by which only callers from inside may steer this proxy.
const INTERNAL_ONLY: &[HeaderId] = &[
    HeaderId::XEnvoyRetriableStatusCodes,
    HeaderId::XEnvoyRetriableHeaderNames,
    HeaderId::XEnvoyRetryOn,
    HeaderId::XEnvoyRetryGrpcOn,
    HeaderId::XEnvoyMaxRetries,
    HeaderId::XEnvoyUpstreamAltStatName,
    HeaderId::XEnvoyUpstreamRqTimeoutMs,
    HeaderId::XEnvoyUpstreamRqPerTryTimeoutMs,
    HeaderId::XEnvoyUpstreamRqTimeoutAltResponse,
    HeaderId::XEnvoyExpectedRqTimeoutMs,
    HeaderId::XEnvoyForceTrace,
    HeaderId::XEnvoyIpTags,
    HeaderId::XEnvoyHedgeOnPerTryTimeout,
];

/// Headers that an edge takes from nobody outside.
const EDGE_ONLY: &[HeaderId] = &[
    HeaderId::XEnvoyDecoratorOperation,
    HeaderId::XEnvoyDownstreamServiceCluster,
    HeaderId::XEnvoyDownstreamServiceNode,
];

/// Edits a request as it comes in and says where it comes from. `internal_only`: further names that are removed
/// from external requests (the route configuration's `internal_only_headers`). `random` makes the request id.
pub fn accept(
    head: &mut RequestHead,
    connection: &Connection,
    rules: &Rules,
    internal_only: &[Box<str>],
    random: u128,
) -> Origin {
    let headers = &mut head.headers;
    let peer = unmapped(connection.peer.ip());
    headers.remove_id(HeaderId::XEnvoyInternal);

    let trusted_hops = rules.xff_num_trusted_hops as usize;
    let (claimed, may_be_internal);
    if rules.use_remote_address {
        may_be_internal = !headers.contains_id(HeaderId::XForwardedFor);
        claimed = match trusted_hops.checked_sub(1).and_then(|skip| address_from_xff(headers, skip)) {
            Some((address, _)) => Some(SocketAddr::new(address, 0)),
            None => Some(connection.peer),
        };
        if !rules.skip_xff_append {
            let hop = if peer.is_loopback() { connection.interface.unwrap_or(peer) } else { peer };
            append_list(headers, HeaderId::XForwardedFor, ",", |out| write_ip(hop, out));
        }
        if trusted_hops == 0 || !headers.contains_id(HeaderId::XForwardedProto) {
            headers.set_id(HeaderId::XForwardedProto, transport_scheme(connection).as_bytes());
        }
        if rules.append_x_forwarded_port
            && (trusted_hops == 0 || !headers.contains_id(HeaderId::XForwardedPort))
        {
            set_forwarded_port(headers, connection);
        }
    } else {
        let found = address_from_xff(headers, trusted_hops);
        may_be_internal = found.is_some_and(|(_, single)| single);
        claimed = found.map(|(address, _)| SocketAddr::new(address, 0));
        if !headers.contains_id(HeaderId::XForwardedProto) {
            headers.set_id(HeaderId::XForwardedProto, transport_scheme(connection).as_bytes());
        }
        if rules.append_x_forwarded_port && !headers.contains_id(HeaderId::XForwardedPort) {
            set_forwarded_port(headers, connection);
        }
    }
    if let Some(scheme) = rules.scheme {
        head.scheme = scheme;
        head.headers.set_id(HeaderId::XForwardedProto, scheme.as_str().as_bytes());
    }

    let headers = &mut head.headers;
    let internal = may_be_internal && claimed.is_some_and(|client| rules.is_internal(client.ip()));
    let client = claimed.unwrap_or(connection.peer);
    let edge = !internal && rules.use_remote_address;
    if internal {
        headers.set_id(HeaderId::XEnvoyInternal, b"true");
    } else {
        remove_internal_only(headers, edge, internal_only);
    }
    if let Some(agent) = &rules.user_agent {
        headers.set_id(HeaderId::XEnvoyDownstreamServiceCluster, agent.cluster.as_bytes());
        if headers.get_id(HeaderId::UserAgent).is_none_or(<[u8]>::is_empty) {
            headers.set_id(HeaderId::UserAgent, agent.cluster.as_bytes());
        }
        if !agent.node.is_empty() {
            headers.set_id(HeaderId::XEnvoyDownstreamServiceNode, agent.node.as_bytes());
        }
    }
    append_via(headers, &rules.via);
    if edge {
        let mut text = List::new();
        write_ip(unmapped(client.ip()), &mut text);
        headers.set_id(HeaderId::XEnvoyExternalAddress, &text);
    }
    if rules.generate_request_id {
        let replace = edge && !rules.preserve_external_request_id;
        if replace || !headers.contains_id(HeaderId::XRequestId) {
            let mut text = [0; 36];
            headers.set_id(HeaderId::XRequestId, uuid(random, &mut text).as_bytes());
        }
    }
    Origin { client, internal }
}

/// Appends to `via`, in requests and responses; an empty `via` changes nothing.
pub fn append_via(headers: &mut HeaderList, via: &str) {
    if !via.is_empty() {
        append_list(headers, HeaderId::Via, ", ", |out| out.extend_from_slice(via.as_bytes()));
    }
}

/// The text of a version-4 UUID made of 128 random bits.
pub fn uuid(random: u128, text: &mut [u8; 36]) -> &str {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut bytes = random.to_be_bytes();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut at = 0;
    for (index, byte) in bytes.into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text[at] = b'-';
            at += 1;
        }
        text[at] = HEX[usize::from(byte >> 4)];
        text[at + 1] = HEX[usize::from(byte & 15)];
        at += 2;
    }
    std::str::from_utf8(text).expect("INVARIANT: hex digits and dashes are UTF-8")
}

/// The address that stands `skip` places from the right of x-forwarded-for, and whether it is the only one.
fn address_from_xff(headers: &HeaderList, skip: usize) -> Option<(IpAddr, bool)> {
    let joined = headers.joined(HeaderId::XForwardedFor.as_str().as_bytes())?;
    let text = std::str::from_utf8(&joined).ok()?;
    let element = text.rsplit(',').nth(skip)?.trim_matches([' ', '\t']);
    Some((unmapped(element.parse().ok()?), !text.contains(',')))
}

fn remove_internal_only(headers: &mut HeaderList, edge: bool, names: &[Box<str>]) {
    headers.retain(|header| match header.id {
        HeaderId::Other => {
            !header.name.eq_ignore_ascii_case(b"x-envoy-original-url")
                && !names.iter().any(|name| header.name.eq_ignore_ascii_case(name.as_bytes()))
        }
        id => {
            let goes = INTERNAL_ONLY.contains(&id)
                || (edge && EDGE_ONLY.contains(&id))
                || names.iter().any(|name| id.as_str().eq_ignore_ascii_case(name));
            !goes
        }
    });
}

fn set_forwarded_port(headers: &mut HeaderList, connection: &Connection) {
    let mut port = itoa::Buffer::new();
    headers.set_id(HeaderId::XForwardedPort, port.format(connection.local.port()).as_bytes());
}

/// Appends an element to a list header; several headers of the name become one.
fn append_list(headers: &mut HeaderList, id: HeaderId, separator: &str, element: impl FnOnce(&mut List)) {
    let mut list = List::new();
    for value in headers.get_all(id.as_str().as_bytes()).filter(|value| !value.is_empty()) {
        if !list.is_empty() {
            list.push(b',');
        }
        list.extend_from_slice(value);
    }
    if !list.is_empty() {
        list.extend_from_slice(separator.as_bytes());
    }
    element(&mut list);
    headers.set_id(id, &list);
}

fn write_ip(address: IpAddr, out: &mut List) {
    struct Sink<'a>(&'a mut List);
    impl fmt::Write for Sink<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.extend_from_slice(text.as_bytes());
            Ok(())
        }
    }
    // Writing to memory does not fail.
    let _ = write!(Sink(out), "{address}");
}

fn transport_scheme(connection: &Connection) -> &'static str {
    if connection.is_tls { "https" } else { "http" }
}

/// An IPv4 address that a dual-stack socket tells as IPv6 is IPv4.
fn unmapped(address: IpAddr) -> IpAddr {
    address.to_canonical()
}
