//! Listeners.

use super::address;
use super::field::{self, ignored, required, unsupported};
use super::{Options, chain, duration, extension, grpc_log, proxy_protocol};
use crate::config::{self, ListenerFilter};
use crate::path::{Diagnostics, Path, Rejected};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use xds_types::envoy::config::core::v3::{SocketOptionsOverride, TrafficDirection};
use xds_types::envoy::config::listener::v3 as proto;
use xds_types::envoy::config::listener::v3::listener::connection_balance_config::BalanceType;
use xds_types::envoy::config::listener::v3::listener::{
    ConnectionBalanceConfig, DeprecatedV1, DrainType, ListenerSpecifier,
};
use xds_types::envoy::config::listener::v3::listener_filter::ConfigType;
use xds_types::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use xds_types::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol;
use xds_types::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;

/// Envoy's default of `per_connection_buffer_limit_bytes`, for listeners and clusters.
pub(super) const BUFFER_LIMIT_BYTES: u32 = 1 << 20;

/// Envoy's default of `listener_filters_timeout`.
const FILTERS_TIMEOUT: Duration = Duration::from_secs(15);

/// Envoy's default of the TLS inspector's `max_client_hello_size`, bytes.
const MAX_CLIENT_HELLO: u32 = 16 * 1024;

/// A listener.
pub(super) fn listener(
    proto: proto::Listener,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<config::Listener, Rejected> {
    let proto::Listener {
        name,
        address: address_proto,
        additional_addresses,
        stat_prefix,
        stats_matcher,
        filter_chains,
        fcds_config,
        filter_chain_matcher,
        use_original_dst,
        default_filter_chain,
        per_connection_buffer_limit_bytes,
        per_connection_buffer_high_watermark_timeout,
        metadata,
        deprecated_v1,
        drain_type,
        listener_filters,
        listener_filters_timeout,
        continue_on_listener_filters_timeout,
        transparent,
        freebind,
        socket_options,
        tcp_fast_open_queue_length,
        traffic_direction,
        udp_listener_config,
        api_listener,
        connection_balance_config,
        reuse_port,
        enable_reuse_port,
        access_log,
        tcp_backlog_size,
        max_connections_to_accept_per_socket_event,
        bind_to_port,
        listener_specifier,
        enable_mptcp,
        ignore_global_conn_limit,
        bypass_overload_manager,
        tcp_keepalive,
    } = proto;
    unsupported!(d, at; fcds_config, filter_chain_matcher, use_original_dst = false, transparent = false,
        freebind = false, socket_options, udp_listener_config, api_listener);
    unsupported!(d, at, "listeners that others hand connections to are not supported"; bind_to_port = true);
    ignored!(d, at, "no stats are filtered"; stats_matcher);
    ignored!(d, at, "has no reader"; metadata);
    ignored!(d, at, "connections are not closed for full buffers"; per_connection_buffer_high_watermark_timeout);
    ignored!(d, at, "deprecated, and the default of enable_reuse_port"; reuse_port);
    ignored!(d, at, "connections are opened and accepted as plain TCP"; tcp_fast_open_queue_length, enable_mptcp);
    ignored!(d, at, "accepting yields by itself"; max_connections_to_accept_per_socket_event);
    ignored!(d, at, "there is no such limit here"; ignore_global_conn_limit, bypass_overload_manager);
    if let Some(DeprecatedV1 { bind_to_port }) = deprecated_v1 {
        let at = at.field("deprecated_v1");
        unsupported!(d, at, "listeners that others hand connections to are not supported"; bind_to_port = true);
    }
    if let Some(ListenerSpecifier::InternalListener(_)) = listener_specifier {
        d.reject(&at.field("internal_listener"), "internal listeners are not supported");
    }
    if let Ok(DrainType::ModifyOnly) = field::variant(drain_type, &at.field("drain_type"), d) {
        d.ignored(&at.field("drain_type"), "the listener drains whenever the proxy does");
    }

    let direction = field::variant(traffic_direction, &at.field("traffic_direction"), d);
    let o = &Options { outbound: direction == Ok(TrafficDirection::Outbound), ..*o };
    let addresses = addresses(address_proto, additional_addresses, at, d)?;
    if filter_chains.is_empty() && default_filter_chain.is_none() {
        d.reject(&at.field("filter_chains"), "at least one filter chain is required");
    }
    let filter_chains = chain::chains(filter_chains, &at.field("filter_chains"), d, o);
    let default_filter_chain = match default_filter_chain {
        Some(proto) => Some(Arc::new(chain::default(proto, &at.field("default_filter_chain"), d, o)?)),
        None => None,
    };
    let filters_at = at.field("listener_filters");
    let access_log = grpc_log::connection_logs(access_log, &at.field("access_log"), d, o);
    Ok(config::Listener {
        name: if name.is_empty() { addresses[0].to_string().into() } else { name.into() },
        filter_chains,
        default_filter_chain,
        listener_filters: field::each(listener_filters, &filters_at, d, listener_filter),
        listener_filters_timeout: duration::limit(
            listener_filters_timeout,
            Some(FILTERS_TIMEOUT),
            &at.field("listener_filters_timeout"),
            d,
        ),
        continue_on_listener_filters_timeout,
        per_connection_buffer_limit_bytes: per_connection_buffer_limit_bytes
            .map_or(BUFFER_LIMIT_BYTES, |v| v.value),
        tcp_backlog_size: tcp_backlog_size.map(|v| v.value),
        reuse_port: enable_reuse_port.is_none_or(|v| v.value),
        exact_balance: exact_balance(connection_balance_config, &at.field("connection_balance_config"), d),
        tcp_keepalive: tcp_keepalive.map(address::keepalive),
        stat_prefix: Some(stat_prefix).filter(|p| !p.is_empty()).map(Into::into),
        access_log,
        inbound: direction == Ok(TrafficDirection::Inbound),
        addresses,
    })
}

/// Whether connections go to the worker with the fewest.
fn exact_balance(proto: Option<ConnectionBalanceConfig>, at: &Path<'_>, d: &mut Diagnostics) -> bool {
    let why = "the kernel spreads connections over workers";
    match proto.and_then(|ConnectionBalanceConfig { balance_type }| balance_type) {
        Some(BalanceType::ExactBalance(_)) => return true,
        Some(BalanceType::ExtendBalance(_)) => d.ignored(&at.field("extend_balance"), why),
        Some(BalanceType::CpuLocalityBalance(_)) => d.ignored(&at.field("cpu_locality_balance"), why),
        None => {}
    }
    false
}

/// The main address, then the additional ones; at least one.
fn addresses(
    main: Option<xds_types::envoy::config::core::v3::Address>,
    additional: Vec<proto::AdditionalAddress>,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<Vec<SocketAddr>, Rejected> {
    let main_at = at.field("address");
    let mut addresses = vec![address::socket(required(main, &main_at, d)?, &main_at, d)?];
    let mut seen = HashSet::from([addresses[0]]);
    addresses.extend(field::each(additional, &at.field("additional_addresses"), d, |proto, at, d| {
        let proto::AdditionalAddress { address, socket_options, tcp_keepalive } = proto;
        if let Some(SocketOptionsOverride { socket_options }) = socket_options {
            let at = at.field("socket_options");
            unsupported!(d, at; socket_options);
        }
        ignored!(d, at, "the listener's own is used for all its addresses"; tcp_keepalive);
        let at = at.field("address");
        let address = address::socket(required(address, &at, d)?, &at, d)?;
        if address.port() != 0 && !seen.insert(address) {
            return Err(d.reject(&at, format_args!("duplicate address {address}")));
        }
        Ok(address)
    }));
    Ok(addresses)
}

fn listener_filter(
    proto: proto::ListenerFilter,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<ListenerFilter, Rejected> {
    let proto::ListenerFilter { name, filter_disabled, config_type } = proto;
    unsupported!(d, at; filter_disabled);
    let packed = match config_type {
        Some(ConfigType::TypedConfig(packed)) => Some(packed),
        Some(ConfigType::ConfigDiscovery(source)) => return Err(extension::discovered(source, at, d)),
        None => None,
    };
    let packed = extension::packed(packed.as_ref(), at, d)?;
    let at = at.field("typed_config");
    if extension::is::<HttpInspector>(packed) {
        let HttpInspector {} = extension::open(packed, &at, d)?;
        return Ok(ListenerFilter::HttpInspector);
    }
    if extension::is::<TlsInspector>(packed) {
        return Ok(tls_inspector(extension::open(packed, &at, d)?, &at, d));
    }
    if extension::is::<ProxyProtocol>(packed) {
        let filter = proxy_protocol::filter(extension::open(packed, &at, d)?, &at, d)?;
        return Ok(ListenerFilter::ProxyProtocol(filter));
    }
    Err(extension::unknown("listener filter", &name, packed, &at, d))
}

fn tls_inspector(proto: TlsInspector, at: &Path<'_>, d: &mut Diagnostics) -> ListenerFilter {
    let TlsInspector {
        enable_ja3_fingerprinting,
        enable_ja4_fingerprinting,
        initial_read_buffer_size,
        close_connection_on_client_hello_parsing_errors,
        max_client_hello_size,
    } = proto;
    ignored!(d, at, "no fingerprints are made"; enable_ja3_fingerprinting = false, enable_ja4_fingerprinting = false);
    ignored!(d, at, "buffers grow as needed"; initial_read_buffer_size);
    ListenerFilter::TlsInspector {
        max_client_hello_bytes: max_client_hello_size.map_or(MAX_CLIENT_HELLO, |v| v.value),
        close_on_error: close_connection_on_client_hello_parsing_errors,
    }
}
