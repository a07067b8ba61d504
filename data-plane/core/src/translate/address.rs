//! Addresses: where to listen, where endpoints are, address ranges, TCP keepalive.

use super::field::{self, unsupported};
use crate::config::{EndpointAddress, TcpKeepalive};
use crate::matcher::Cidr;
use crate::path::{Diagnostics, Path, Rejected};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use xds_types::envoy::config::core::v3::address::Address as Kind;
use xds_types::envoy::config::core::v3::socket_address::{PortSpecifier, Protocol};
use xds_types::envoy::config::core::v3::{self as core_proto, CidrRange};

/// An IP address and port.
pub(super) fn socket(
    proto: core_proto::Address,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<SocketAddr, Rejected> {
    match endpoint(proto, at, d)? {
        EndpointAddress::Socket(address) => Ok(address),
        EndpointAddress::Name(name, _) => {
            let (at, message) = (at.field("socket_address"), format!("malformed IP address: {name}"));
            Err(d.reject(&at.field("address"), message))
        }
    }
}

/// An IP address or a name, and a port.
pub(super) fn endpoint(
    proto: core_proto::Address,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<EndpointAddress, Rejected> {
    let core_proto::Address { address } = proto;
    match address {
        Some(Kind::SocketAddress(socket)) => socket_address(socket, &at.field("socket_address"), d),
        Some(Kind::Pipe(_)) => Err(d.reject(&at.field("pipe"), "unix sockets are not supported")),
        Some(Kind::EnvoyInternalAddress(_)) => {
            Err(d.reject(&at.field("envoy_internal_address"), "internal listeners are not supported"))
        }
        None => Err(d.reject(at, "an address is required")),
    }
}

fn socket_address(
    proto: core_proto::SocketAddress,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<EndpointAddress, Rejected> {
    let core_proto::SocketAddress {
        protocol,
        address,
        resolver_name,
        ipv4_compat,
        network_namespace_filepath,
        port_specifier,
    } = proto;
    unsupported!(d, at; resolver_name, network_namespace_filepath);
    unsupported!(d, at, "one socket for both families is not supported: list 0.0.0.0 and :: as two addresses"; ipv4_compat);
    match field::variant(protocol, &at.field("protocol"), d)? {
        Protocol::Tcp => {}
        Protocol::Udp => return Err(d.reject(&at.field("protocol"), "UDP is not supported")),
    }
    let port = match port_specifier {
        Some(PortSpecifier::PortValue(port)) => field::port(port, 0, &at.field("port_value"), d)?,
        Some(PortSpecifier::NamedPort(_)) => {
            return Err(d.reject(&at.field("named_port"), "named ports are not supported"));
        }
        None => return Err(d.reject(at, "a port is required")),
    };
    if address.is_empty() {
        return Err(d.reject(&at.field("address"), "is required"));
    }
    Ok(match address.parse::<IpAddr>() {
        Ok(ip) => EndpointAddress::Socket(SocketAddr::new(ip, port)),
        Err(_) => EndpointAddress::Name(address.into(), port),
    })
}

/// An address range; host bits are cleared, as Envoy does.
pub(super) fn range(proto: CidrRange, at: &Path<'_>, d: &mut Diagnostics) -> Result<Cidr, Rejected> {
    let CidrRange { address_prefix, prefix_len } = proto;
    let Ok(ip) = address_prefix.parse::<IpAddr>() else {
        return Err(
            d.reject(&at.field("address_prefix"), format_args!("malformed IP address: {address_prefix}"))
        );
    };
    let length = prefix_len.map_or(0, |v| v.value);
    match u8::try_from(length).ok().and_then(|length| Cidr::new(ip, length).ok()) {
        Some(range) => Ok(range.trunc()),
        None => {
            let most = if ip.is_ipv4() { 32 } else { 128 };
            Err(d.reject(&at.field("prefix_len"), format_args!("{length} is too long, must be 0 to {most}")))
        }
    }
}

/// TCP keepalive; what is absent is the system's.
pub(super) fn keepalive(proto: core_proto::TcpKeepalive) -> TcpKeepalive {
    let core_proto::TcpKeepalive { keepalive_probes, keepalive_time, keepalive_interval } = proto;
    let seconds =
        |v: Option<xds_types::google::protobuf::UInt32Value>| v.map(|v| Duration::from_secs(v.value.into()));
    TcpKeepalive {
        probes: keepalive_probes.map(|v| v.value),
        idle: seconds(keepalive_time),
        interval: seconds(keepalive_interval),
    }
}
