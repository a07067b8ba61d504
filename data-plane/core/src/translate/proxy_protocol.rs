//! The PROXY protocol: the listener filter that reads it, and what clusters send.

use super::field::{self, ignored, required, unsupported};
use crate::config::{ProxyProtocolFilter, ProxyProtocolVersion};
use crate::path::{Diagnostics, Path, Rejected};
use xds_types::envoy::config::core::v3::ProxyProtocolConfig;
use xds_types::envoy::config::core::v3::proxy_protocol_config::Version;
use xds_types::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol;

/// The listener filter.
pub(super) fn filter(
    proto: ProxyProtocol,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<ProxyProtocolFilter, Rejected> {
    let ProxyProtocol {
        rules,
        allow_requests_without_proxy_protocol,
        pass_through_tlvs,
        disallowed_versions,
        stat_prefix,
        tlv_location,
    } = proto;
    unsupported!(d, at, "TLVs are skipped"; rules, pass_through_tlvs);
    ignored!(d, at, "TLVs are skipped"; tlv_location);
    let mut filter = ProxyProtocolFilter {
        optional: allow_requests_without_proxy_protocol,
        stat_prefix: stat_prefix.into(),
        ..ProxyProtocolFilter::default()
    };
    for (index, version) in disallowed_versions.into_iter().enumerate() {
        match field::variant(version, &at.field("disallowed_versions").index(index), d)? {
            Version::V1 => filter.disallow_v1 = true,
            Version::V2 => filter.disallow_v2 = true,
        }
    }
    Ok(filter)
}

/// Which version a cluster sends.
pub(super) fn version(
    proto: Option<ProxyProtocolConfig>,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<ProxyProtocolVersion, Rejected> {
    let ProxyProtocolConfig { version, pass_through_tlvs, added_tlvs } = required(proto, at, d)?;
    unsupported!(d, at, "TLVs are not sent"; pass_through_tlvs, added_tlvs);
    Ok(match field::variant(version, &at.field("version"), d)? {
        Version::V1 => ProxyProtocolVersion::V1,
        Version::V2 => ProxyProtocolVersion::V2,
    })
}
