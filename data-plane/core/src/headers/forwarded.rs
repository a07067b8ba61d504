//! Where a request comes from: x-forwarded-*, x-envoy-internal, x-request-id, via.
//!
//! Called once a request by the connection manager, before routing. As Envoy's
//! `configuration/http/http_conn_man/headers` and its connection manager do it.

use super::{
    ClientCertDetails, ForwardClientCert, HeaderId, HeaderIds, HeaderList, RequestHead, Scheme, Tls,
    forward_client_cert, hex,
};
use ipnet::IpNet;
use smallvec::SmallVec;
use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

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
    /// What becomes of x-forwarded-client-cert.
    pub client_cert: ForwardClientCert,
    /// What is told of a client certificate.
    pub client_cert_details: ClientCertDetails,
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
pub struct Connection<'a> {
    /// The peer, as restored by listener filters.
    pub peer: SocketAddr,
    /// Where it connected to.
    pub local: SocketAddr,
    /// Whether it is encrypted.
    pub is_tls: bool,
    /// What TLS agreed upon.
    pub tls: Option<&'a Tls>,
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
const INTERNAL_ONLY: HeaderIds = HeaderIds::of(&[
    HeaderId::XEnvoyOriginalUrl,
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
]);

/// Headers that an edge takes from nobody outside.
const EDGE_ONLY: HeaderIds = HeaderIds::of(&[
    HeaderId::XEnvoyOriginalHost,
    HeaderId::XEnvoyDecoratorOperation,
    HeaderId::XEnvoyDownstreamServiceCluster,
    HeaderId::XEnvoyDownstreamServiceNode,
    HeaderId::XEnvoyOriginalPath,
]);

/// Edits a request as it comes in and says where it comes from. `internal_only`: further names that are removed
/// from external requests (the route configuration's `internal_only_headers`). `random` makes the request id.
pub fn accept(
    head: &mut RequestHead,
    connection: &Connection<'_>,
    rules: &Rules,
    internal_only: &[Box<str>],
    random: u128,
) -> Origin {
    let headers = &mut head.headers;
    let peer = unmapped(connection.peer.ip());
    headers.remove_id(HeaderId::XEnvoyInternal);
    forward_client_cert(headers, rules.client_cert, rules.client_cert_details, connection.tls);
    join_list(headers, HeaderId::XForwardedFor);

    let trusted_hops = rules.xff_num_trusted_hops as usize;
    let (claimed, may_be_internal);
    if rules.use_remote_address {
        may_be_internal = !headers.contains_id(HeaderId::XForwardedFor);
        claimed = match trusted_hops.checked_sub(1).and_then(|skip| address_from_xff(headers, skip)) {
            Some((address, _)) => Some(SocketAddr::new(address, 0)),
            None => Some(connection.peer),
        };
        if !rules.skip_xff_append {
            let hop = if is_own(peer) { connection.interface.unwrap_or(peer) } else { peer };
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
    let mut bytes = random.to_be_bytes();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut at = 0;
    for (index, byte) in bytes.into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text[at] = b'-';
            at += 1;
        }
        text[at..at + 2].copy_from_slice(&hex::digits(byte));
        at += 2;
    }
    std::str::from_utf8(text).expect("INVARIANT: hex digits and dashes are UTF-8")
}

/// The address that stands `skip` places from the right of x-forwarded-for, and whether it is the only one.
fn address_from_xff(headers: &HeaderList, skip: usize) -> Option<(IpAddr, bool)> {
    let joined = headers.joined_id(HeaderId::XForwardedFor)?;
    let text = std::str::from_utf8(&joined).ok()?;
    let element = text.rsplit(',').nth(skip)?.trim_matches([' ', '\t']);
    Some((unmapped(element.parse().ok()?), !text.contains(',')))
}

fn remove_internal_only(headers: &mut HeaderList, edge: bool, names: &[Box<str>]) {
    let removed = if edge { INTERNAL_ONLY.and(EDGE_ONLY) } else { INTERNAL_ONLY };
    if names.is_empty() && !headers.contains_any(removed) {
        return;
    }
    headers.retain(|header| {
        let is_named = names.iter().any(|name| header.name.eq_ignore_ascii_case(name.as_bytes()));
        !removed.contains(header.id) && !is_named
    });
}

fn set_forwarded_port(headers: &mut HeaderList, connection: &Connection<'_>) {
    let mut port = itoa::Buffer::new();
    headers.set_id(HeaderId::XForwardedPort, port.format(connection.local.port()).as_bytes());
}

/// Makes one header of several of the name, as Envoy does of those it knows.
fn join_list(headers: &mut HeaderList, id: HeaderId) {
    if headers.get_all_id(id).nth(1).is_some() {
        let joined = headers.joined_id(id).map(|joined| joined.into_owned());
        headers.set_id(id, &joined.unwrap_or_default());
    }
}

/// Appends an element to a list header; several headers of the name become one.
fn append_list(headers: &mut HeaderList, id: HeaderId, separator: &str, element: impl FnOnce(&mut List)) {
    let mut list = List::new();
    for value in headers.get_all_id(id).filter(|value| !value.is_empty()) {
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
    match address {
        IpAddr::V4(address) => {
            for (at, octet) in address.octets().into_iter().enumerate() {
                if at > 0 {
                    out.push(b'.');
                }
                out.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
            }
        }
        // Writing to memory does not fail.
        IpAddr::V6(address) => _ = write!(Sink(out), "{address}"),
    }
}

fn transport_scheme(connection: &Connection<'_>) -> &'static str {
    if connection.is_tls { "https" } else { "http" }
}

/// An IPv4 address that a dual-stack socket tells as IPv6 is IPv4.
fn unmapped(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Envoy: these two addresses are loopback, and no other of 127.0.0.0/8.
fn is_own(ip: IpAddr) -> bool {
    ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::Version;

    const RANDOM: u128 = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;

    fn head(headers: &[(&str, &str)]) -> RequestHead {
        let mut head = RequestHead {
            method: "GET".into(),
            path: "/".into(),
            authority: "h".into(),
            scheme: Scheme::Http,
            version: Version::Http11,
            headers: HeaderList::default(),
        };
        for (name, value) in headers {
            head.headers.append(name.as_bytes(), value.as_bytes());
        }
        head
    }

    fn connection(peer: &str) -> Connection<'static> {
        Connection {
            peer: peer.parse().unwrap(),
            local: "10.0.0.9:8443".parse().unwrap(),
            is_tls: false,
            tls: None,
            interface: Some("192.0.2.2".parse().unwrap()),
        }
    }

    fn edge() -> Rules {
        Rules { use_remote_address: true, generate_request_id: true, ..Rules::default() }
    }

    fn inner() -> Rules {
        Rules { generate_request_id: true, ..Rules::default() }
    }

    fn get(head: &RequestHead, name: &str) -> String {
        head.headers
            .get(name.as_bytes())
            .map_or("-".into(), |value| String::from_utf8(value.to_vec()).unwrap())
    }

    /// The request after [`accept`], and where it comes from.
    fn accepted(headers: &[(&str, &str)], peer: &str, rules: &Rules) -> (RequestHead, Origin) {
        let mut head = head(headers);
        let origin = accept(&mut head, &connection(peer), rules, &["x-secret".into()], RANDOM);
        (head, origin)
    }

    #[test]
    fn an_edge_appends_its_peer_without_a_space() {
        for (given, peer, want) in [
            (None, "5.6.7.8:99", "5.6.7.8"),
            (Some("1.2.3.4"), "5.6.7.8:99", "1.2.3.4,5.6.7.8"),
            (Some("1.2.3.4"), "[2001:db8::1]:99", "1.2.3.4,2001:db8::1"),
            (Some("1.2.3.4"), "[::ffff:5.6.7.8]:99", "1.2.3.4,5.6.7.8"),
            (None, "127.0.0.1:99", "192.0.2.2"),
            (Some(""), "5.6.7.8:99", "5.6.7.8"),
        ] {
            let headers: Vec<_> = given.map(|value| ("x-forwarded-for", value)).into_iter().collect();
            let (head, _) = accepted(&headers, peer, &edge());
            assert_eq!(get(&head, "x-forwarded-for"), want, "{given:?} {peer}");
        }
    }

    #[test]
    fn several_xff_headers_become_one() {
        let headers = [("x-forwarded-for", "1.1.1.1"), ("X-Forwarded-For", "2.2.2.2")];
        let (head, _) = accepted(&headers, "5.6.7.8:9", &edge());
        assert_eq!(get(&head, "x-forwarded-for"), "1.1.1.1,2.2.2.2,5.6.7.8");
        assert_eq!(head.headers.get_all(b"x-forwarded-for").count(), 1);
    }

    #[test]
    fn skip_xff_append_leaves_the_list_alone() {
        let rules = Rules { skip_xff_append: true, ..edge() };
        let (head, origin) = accepted(&[("x-forwarded-for", "1.2.3.4")], "5.6.7.8:99", &rules);
        assert_eq!(get(&head, "x-forwarded-for"), "1.2.3.4");
        assert_eq!(origin.client.to_string(), "5.6.7.8:99");
    }

    #[test]
    fn a_proxy_within_leaves_xff_alone_and_reads_the_client_from_it() {
        for (value, client) in [
            (Some("1.2.3.4"), "1.2.3.4:0"),
            (Some("1.2.3.4, 10.0.0.1"), "10.0.0.1:0"),
            (Some("fd00::1"), "[fd00::1]:0"),
            (Some("unknown"), "127.0.0.1:7"),
            (None, "127.0.0.1:7"),
        ] {
            let headers: Vec<_> = value.map(|value| ("x-forwarded-for", value)).into_iter().collect();
            let (head, origin) = accepted(&headers, "127.0.0.1:7", &inner());
            assert_eq!(origin.client.to_string(), client, "{value:?}");
            assert_eq!(get(&head, "x-forwarded-for"), value.unwrap_or("-"));
        }
    }

    #[test]
    fn trusted_hops_move_the_client_to_the_left() {
        let headers = [("x-forwarded-for", "203.0.113.128, 203.0.113.10, 203.0.113.1")];
        for (rules, hops, client) in [
            // The examples of Envoy's page on x-forwarded-for.
            (edge(), 0, "192.0.2.5:99"),
            (edge(), 2, "203.0.113.10:0"),
            (inner(), 0, "203.0.113.1:0"),
            (inner(), 2, "203.0.113.128:0"),
            (edge(), 9, "192.0.2.5:99"),
            (inner(), 9, "192.0.2.5:99"),
        ] {
            let rules = Rules { xff_num_trusted_hops: hops, ..rules };
            let (_, origin) = accepted(&headers, "192.0.2.5:99", &rules);
            assert_eq!(origin.client.to_string(), client, "{hops} hops");
        }
    }

    #[test]
    fn x_forwarded_proto_is_the_edges_to_say() {
        for (rules, hops, given, want) in [
            (edge(), 0, Some("https"), "http"),
            (edge(), 1, Some("https"), "https"),
            (edge(), 1, None, "http"),
            (inner(), 0, Some("https"), "https"),
            (inner(), 0, None, "http"),
        ] {
            let headers: Vec<_> = given.map(|value| ("x-forwarded-proto", value)).into_iter().collect();
            let (head, _) = accepted(&headers, "5.6.7.8:9", &Rules { xff_num_trusted_hops: hops, ..rules });
            assert_eq!(get(&head, "x-forwarded-proto"), want, "{hops} {given:?}");
        }
        let rules = Rules { scheme: Some(Scheme::Https), ..inner() };
        let (head, _) = accepted(&[], "5.6.7.8:9", &rules);
        assert_eq!((get(&head, "x-forwarded-proto").as_str(), head.scheme), ("https", Scheme::Https));
    }

    #[test]
    fn x_forwarded_port_is_set_where_asked() {
        let asked = |rules| Rules { append_x_forwarded_port: true, ..rules };
        for (rules, given, want) in [
            (edge(), None, "-"),
            (asked(edge()), None, "8443"),
            (asked(edge()), Some("1"), "8443"),
            (asked(inner()), Some("1"), "1"),
            (asked(inner()), None, "8443"),
        ] {
            let headers: Vec<_> = given.map(|value| ("x-forwarded-port", value)).into_iter().collect();
            assert_eq!(get(&accepted(&headers, "5.6.7.8:9", &rules).0, "x-forwarded-port"), want);
        }
    }

    #[test]
    fn only_a_single_address_of_the_inside_is_internal() {
        let with = |rules: Rules| Rules { internal_ranges: ["10.0.0.0/8".parse().unwrap()].into(), ..rules };
        for (rules, xff, peer, internal) in [
            (inner(), Some("10.0.0.1"), "127.0.0.1:1", false),
            (with(inner()), Some("10.0.0.1"), "127.0.0.1:1", true),
            (with(inner()), Some("10.0.0.1, 10.0.0.2"), "127.0.0.1:1", false),
            (with(inner()), Some("11.0.0.1"), "127.0.0.1:1", false),
            (with(inner()), None, "10.0.0.1:1", false),
            (with(edge()), None, "10.0.0.1:1", true),
            (with(edge()), None, "[::ffff:10.0.0.1]:1", true),
            (with(edge()), Some("10.0.0.2"), "10.0.0.1:1", false),
            (edge(), None, "10.0.0.1:1", false),
        ] {
            let mut headers = vec![("x-envoy-internal", "true")];
            headers.extend(xff.map(|value| ("x-forwarded-for", value)));
            let (head, origin) = accepted(&headers, peer, &rules);
            assert_eq!(origin.internal, internal, "{xff:?} {peer}");
            assert_eq!(get(&head, "x-envoy-internal"), if internal { "true" } else { "-" });
        }
    }

    #[test]
    fn outsiders_cannot_steer_the_proxy() {
        let headers = [
            ("x-envoy-retry-on", "5xx"),
            ("x-envoy-upstream-rq-timeout-ms", "1"),
            ("x-envoy-original-url", "u"),
            ("X-Secret", "s"),
            ("x-envoy-downstream-service-cluster", "c"),
            ("x-envoy-foo", "kept"),
        ];
        let names = |rules: &Rules| -> Vec<String> {
            let (head, _) = accepted(&headers, "10.0.0.1:1", rules);
            let known = head.headers.iter().filter(|header| header.id != HeaderId::XRequestId);
            known
                .map(|header| String::from_utf8(header.name.to_vec()).unwrap())
                .filter(|name| !name.contains("forwarded") && !name.contains("external"))
                .collect()
        };
        assert_eq!(names(&edge()), ["x-envoy-foo"]);
        assert_eq!(names(&inner()), ["x-envoy-downstream-service-cluster", "x-envoy-foo"]);
        let inside = Rules { internal_ranges: ["10.0.0.0/8".parse().unwrap()].into(), ..edge() };
        assert_eq!(names(&inside).len(), headers.len() + 1, "an insider may; x-envoy-internal is added");
    }

    #[test]
    fn the_external_address_is_told_by_an_edge() {
        assert_eq!(get(&accepted(&[], "5.6.7.8:9", &edge()).0, "x-envoy-external-address"), "5.6.7.8");
        assert_eq!(get(&accepted(&[], "127.0.0.1:9", &edge()).0, "x-envoy-external-address"), "127.0.0.1");
        assert_eq!(get(&accepted(&[], "5.6.7.8:9", &inner()).0, "x-envoy-external-address"), "-");
    }

    #[test]
    fn a_request_id_is_made_when_missing_and_remade_at_the_edge() {
        let made = "01234567-89ab-4def-8123-456789abcdef";
        let preserving = Rules { preserve_external_request_id: true, ..edge() };
        let off = Rules::default();
        for (rules, given, want) in [
            (inner(), None, made),
            (inner(), Some("abc"), "abc"),
            (edge(), Some("abc"), made),
            (preserving, Some("abc"), "abc"),
            (off.clone(), None, "-"),
            (off, Some("abc"), "abc"),
        ] {
            let headers: Vec<_> = given.map(|value| ("x-request-id", value)).into_iter().collect();
            assert_eq!(get(&accepted(&headers, "5.6.7.8:9", &rules).0, "x-request-id"), want);
        }
    }

    #[test]
    fn via_and_user_agent_are_added_where_asked() {
        let rules = Rules {
            via: "1.1 here".into(),
            user_agent: Some(UserAgent { cluster: "web".into(), node: "n1".into() }),
            ..inner()
        };
        let (head, _) = accepted(&[("via", "1.0 other")], "5.6.7.8:9", &rules);
        assert_eq!(get(&head, "via"), "1.0 other, 1.1 here");
        assert_eq!(get(&head, "user-agent"), "web");
        assert_eq!(get(&head, "x-envoy-downstream-service-cluster"), "web");
        assert_eq!(get(&head, "x-envoy-downstream-service-node"), "n1");
        let (head, _) = accepted(&[("user-agent", "curl")], "5.6.7.8:9", &rules);
        assert_eq!(get(&head, "user-agent"), "curl");
    }
}
