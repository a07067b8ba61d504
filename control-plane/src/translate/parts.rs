//! Small parts that several resources share.

use prost::{Message, Name};
use xds_types::envoy::config::core::v3::address::Address as AddressKind;
use xds_types::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use xds_types::envoy::config::core::v3::socket_address::{PortSpecifier, Protocol};
use xds_types::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, SocketAddress,
};
use xds_types::envoy::extensions::filters::http::router::v3::Router;
use xds_types::envoy::extensions::filters::network::http_connection_manager::v3::{HttpFilter, http_filter};
use xds_types::google::protobuf::{BoolValue, Duration, UInt32Value};

use crate::model::{ObjectKey, Problems};

/// `ads: {}`: the client's one stream.
pub(super) fn ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    }
}

/// A socket address.
pub(super) fn address(host: &str, port: u32) -> Address {
    let socket = SocketAddress {
        protocol: Protocol::Tcp.into(),
        address: host.to_owned(),
        port_specifier: Some(PortSpecifier::PortValue(port)),
        ..SocketAddress::default()
    };
    Address { address: Some(AddressKind::SocketAddress(socket)) }
}

/// The router, which ends every chain of HTTP filters.
pub(super) fn router() -> HttpFilter {
    HttpFilter {
        name: "envoy.filters.http.router".to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(xds_types::any::pack(&Router::default()))),
        ..HttpFilter::default()
    }
}

pub(super) fn uint(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

pub(super) fn yes() -> Option<BoolValue> {
    Some(BoolValue { value: true })
}

pub(super) fn seconds(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 0 })
}

/// Reports every rule of Envoy's protos that a compiled message breaks. Our own checks come before, so that
/// what is found here came in by a patch, or shows that a check of ours is missing.
pub(super) fn check_rules<M: Message + Name>(message: &M, of: &ObjectKey, what: &str, found: &mut Problems) {
    for violation in xds_types::rules::check(message) {
        found.error(
            of,
            "spec",
            format!("makes an invalid {what}: {}: {}", violation.path, violation.message),
        );
    }
}
