//! Filter chains: what they match, that no two match the same, and their network filters.

use super::field::{self, ignored, unsupported};
use super::{Options, address, data, duration, extension, http, tcp, tls};
use crate::config::{ConnectionLimit, FilterChain, FilterChainMatch, NetworkFilter};
use crate::path::{Diagnostics, Path, Rejected};
use std::sync::Arc;
use std::time::Duration;
use xds_types::envoy::config::core::v3::RuntimeFeatureFlag;
use xds_types::envoy::config::listener::v3 as proto;
use xds_types::envoy::config::listener::v3::filter::ConfigType;
use xds_types::envoy::config::listener::v3::filter_chain_match::ConnectionSourceType;
use xds_types::envoy::extensions::filters::network::connection_limit::v3 as proto_limit;
use xds_types::envoy::extensions::filters::network::direct_response::v3::Config as DirectResponse;
use xds_types::envoy::extensions::filters::network::echo::v3::Echo;
use xds_types::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use xds_types::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;

/// The filter chains of a listener; no connection can match two of them equally well.
pub(super) fn chains(
    list: Vec<proto::FilterChain>,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Vec<Arc<FilterChain>> {
    let mut chains: Vec<(usize, Arc<FilterChain>)> = Vec::with_capacity(list.len());
    for (index, proto) in list.into_iter().enumerate() {
        let at = at.index(index);
        let Ok(chain) = chain(proto, &at, d, o) else { continue };
        if let Some((other, _)) = chains.iter().find(|(_, other)| overlap(&other.matches, &chain.matches)) {
            let message = format!("matches the same connections as filter_chains[{other}]");
            d.reject(&at.field("filter_chain_match"), message);
        }
        chains.push((index, Arc::new(chain)));
    }
    chains.into_iter().map(|(_, chain)| chain).collect()
}

/// The default chain, whose match has no meaning.
pub(super) fn default(
    mut proto: proto::FilterChain,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<FilterChain, Rejected> {
    if proto.filter_chain_match.take().is_some() {
        d.ignored(&at.field("filter_chain_match"), "the default filter chain takes what no other matches");
    }
    chain(proto, at, d, o)
}

fn chain(
    proto: proto::FilterChain,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<FilterChain, Rejected> {
    let proto::FilterChain {
        filter_chain_match,
        filters,
        use_proxy_proto,
        metadata,
        transport_socket,
        transport_socket_connect_timeout,
        name,
    } = proto;
    unsupported!(d, at, "deprecated: use the listener filter proxy_protocol"; use_proxy_proto = false);
    ignored!(d, at, "has no reader"; metadata);
    let transport_socket = tls::downstream(transport_socket, &at.field("transport_socket"), d, o);
    let timeout_at = at.field("transport_socket_connect_timeout");
    if matches!(transport_socket, Ok(None)) {
        ignored!(d, at, "plaintext has no handshake to limit"; transport_socket_connect_timeout);
    }
    let transport_socket_connect_timeout =
        duration::limit(transport_socket_connect_timeout, None, &timeout_at, d);
    let matches = match filter_chain_match {
        Some(proto) => chain_match(proto, &at.field("filter_chain_match"), d)?,
        None => FilterChainMatch::default(),
    };
    let filters_at = at.field("filters");
    if filters.is_empty() {
        return Err(d.reject(&filters_at, "at least one network filter is required"));
    }
    let last = filters.len() - 1;
    let filters = filters.into_iter().enumerate().filter_map(|(index, proto)| {
        let at = filters_at.index(index);
        let filter = network_filter(proto, &at, d, o).ok()?;
        match filter.is_terminal() {
            true if index != last => _ = d.reject(&at, "a terminal filter must be the last one"),
            false if index == last => _ = d.reject(&at, "the last filter must be a terminal one"),
            _ => {}
        }
        Some(filter)
    });
    let filters = filters.collect();
    Ok(FilterChain {
        matches,
        transport_socket: transport_socket?,
        transport_socket_connect_timeout,
        filters,
        name: name.into(),
    })
}

fn network_filter(
    proto: proto::Filter,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<NetworkFilter, Rejected> {
    let proto::Filter { name, config_type } = proto;
    let packed = match config_type {
        Some(ConfigType::TypedConfig(packed)) => Some(packed),
        Some(ConfigType::ConfigDiscovery(source)) => return Err(extension::discovered(source, at, d)),
        None => None,
    };
    let packed = extension::packed(packed.as_ref(), at, d)?;
    let at = at.field("typed_config");
    if extension::is::<HttpConnectionManager>(packed) {
        let hcm = http::manager(extension::open(packed, &at, d)?, &at, d, o)?;
        return Ok(NetworkFilter::Http(Arc::new(hcm)));
    }
    if extension::is::<TcpProxy>(packed) {
        let tcp = tcp::proxy(extension::open(packed, &at, d)?, &at, d, o)?;
        return Ok(NetworkFilter::Tcp(Arc::new(tcp)));
    }
    if extension::is::<DirectResponse>(packed) {
        let DirectResponse { response } = extension::open(packed, &at, d)?;
        let answer = match response {
            Some(proto) => data::bytes(proto, &at.field("response"), d, o)?,
            None => Vec::new(),
        };
        return Ok(NetworkFilter::DirectResponse(answer.into()));
    }
    if extension::is::<Echo>(packed) {
        let Echo {} = extension::open(packed, &at, d)?;
        return Ok(NetworkFilter::Echo);
    }
    if extension::is::<proto_limit::ConnectionLimit>(packed) {
        let limit = connection_limit(extension::open(packed, &at, d)?, &at, d)?;
        return Ok(NetworkFilter::ConnectionLimit(limit));
    }
    Err(extension::unknown("network filter", &name, packed, &at, d))
}

fn connection_limit(
    proto: proto_limit::ConnectionLimit,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<ConnectionLimit, Rejected> {
    let proto_limit::ConnectionLimit { stat_prefix, max_connections, delay, runtime_enabled } = proto;
    let enabled = match runtime_enabled {
        Some(RuntimeFeatureFlag { default_value, runtime_key }) => {
            let at = at.field("runtime_enabled");
            ignored!(d, at, "runtime does not turn it on or off"; runtime_key);
            default_value.is_none_or(|v| v.value)
        }
        None => true,
    };
    Ok(ConnectionLimit {
        stat_prefix: stat_prefix.into(),
        max_connections: field::required(max_connections, &at.field("max_connections"), d)?.value,
        delay: duration::or(delay, Duration::ZERO, &at.field("delay"), d),
        enabled,
    })
}

fn chain_match(
    proto: proto::FilterChainMatch,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<FilterChainMatch, Rejected> {
    let proto::FilterChainMatch {
        destination_port,
        prefix_ranges,
        address_suffix,
        suffix_len,
        direct_source_prefix_ranges,
        source_type,
        source_prefix_ranges,
        source_ports,
        server_names,
        transport_protocol,
        application_protocols,
    } = proto;
    unsupported!(d, at; address_suffix, suffix_len);
    let source_at = at.field("source_type");
    match field::variant(source_type, &source_at, d)? {
        ConnectionSourceType::Any => {}
        ConnectionSourceType::SameIpOrLoopback | ConnectionSourceType::External => {
            d.reject(&source_at, "not supported: use source_prefix_ranges");
        }
    }
    let transport_at = at.field("transport_protocol");
    if !matches!(transport_protocol.as_str(), "" | "raw_buffer" | "tls") {
        d.reject(&transport_at, format_args!("{transport_protocol:?} is neither raw_buffer nor tls"));
    }
    let port_at = at.field("destination_port");
    let destination_port = match destination_port {
        Some(port) => Some(field::port(port.value, 1, &port_at, d)?),
        None => None,
    };
    Ok(FilterChainMatch {
        destination_port,
        prefix_ranges: field::each(prefix_ranges, &at.field("prefix_ranges"), d, address::range),
        source_prefix_ranges: field::each(
            source_prefix_ranges,
            &at.field("source_prefix_ranges"),
            d,
            address::range,
        ),
        direct_source_prefix_ranges: field::each(
            direct_source_prefix_ranges,
            &at.field("direct_source_prefix_ranges"),
            d,
            address::range,
        ),
        source_ports: field::each(source_ports, &at.field("source_ports"), d, |p, at, d| {
            field::port(p, 1, at, d)
        }),
        server_names: field::each(server_names, &at.field("server_names"), d, server_name),
        transport_protocol: transport_protocol.into(),
        application_protocols: application_protocols.into_iter().map(Into::into).collect(),
    })
}

fn server_name(name: String, at: &Path<'_>, d: &mut Diagnostics) -> Result<Box<str>, Rejected> {
    let rest = name.strip_prefix("*.").unwrap_or(&name);
    if rest.is_empty() || rest.contains('*') {
        return Err(d.reject(
            at,
            format_args!("{name:?}: a wildcard must be a whole first label, as in *.example.com"),
        ));
    }
    Ok(name.to_ascii_lowercase().into())
}

/// Whether some connection is matched equally well by both: no part tells them apart.
fn overlap(a: &FilterChainMatch, b: &FilterChainMatch) -> bool {
    // Parts are compared by value: 10.0.0.0/8 and 10.1.0.0/16 differ, and the longer one wins.
    fn share<T: PartialEq>(a: &[T], b: &[T]) -> bool {
        if a.is_empty() || b.is_empty() {
            a.is_empty() && b.is_empty()
        } else {
            a.iter().any(|x| b.contains(x))
        }
    }
    a.destination_port == b.destination_port
        && a.transport_protocol == b.transport_protocol
        && share(&a.prefix_ranges, &b.prefix_ranges)
        && share(&a.server_names, &b.server_names)
        && share(&a.application_protocols, &b.application_protocols)
        && share(&a.direct_source_prefix_ranges, &b.direct_source_prefix_ranges)
        && share(&a.source_prefix_ranges, &b.source_prefix_ranges)
        && share(&a.source_ports, &b.source_ports)
}
