//! Hash policies of routes.

use super::field::{self, required};
use super::{duration, edits, matcher};
use crate::config::{HashCookie, HashPolicy, HashSource};
use crate::path::{Diagnostics, Path, Rejected};
use xds_types::envoy::config::route::v3::route_action as proto;
use xds_types::envoy::config::route::v3::route_action::hash_policy::{
    ConnectionProperties, Cookie, CookieAttribute, FilterState, Header, PolicySpecifier, QueryParameter,
};

/// The parts of a hash, in order.
pub(super) fn policies(list: Vec<proto::HashPolicy>, at: &Path<'_>, d: &mut Diagnostics) -> Vec<HashPolicy> {
    field::each(list, at, d, policy).into_iter().flatten().collect()
}

/// `None`: it says nothing.
fn policy(
    proto: proto::HashPolicy,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<Option<HashPolicy>, Rejected> {
    let proto::HashPolicy { terminal, policy_specifier } = proto;
    let source = match required(policy_specifier, &at.field("policy_specifier"), d)? {
        PolicySpecifier::Header(Header { header_name, regex_rewrite }) => {
            let at = at.field("header");
            edits::name(&header_name, &at.field("header_name"), d)?;
            let rewrite = match regex_rewrite {
                Some(proto) => Some(matcher::substitution(proto, &at.field("regex_rewrite"), d)?),
                None => None,
            };
            HashSource::Header { name: header_name.to_ascii_lowercase().into(), rewrite }
        }
        PolicySpecifier::Cookie(Cookie { name, ttl, path, attributes }) => {
            let at = at.field("cookie");
            let ttl = duration::read(ttl, &at.field("ttl"), d);
            HashSource::Cookie(HashCookie {
                name: name.into(),
                ttl_seconds: ttl.map(|ttl| ttl.as_secs()),
                path: path.into(),
                attributes: attributes
                    .into_iter()
                    .map(|CookieAttribute { name, value }| (name.into(), value.into()))
                    .collect(),
            })
        }
        PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip }) => {
            if !source_ip {
                d.ignored(&at.field("connection_properties"), "names no property");
                return Ok(None);
            }
            HashSource::SourceIp
        }
        PolicySpecifier::QueryParameter(QueryParameter { name }) => HashSource::Query(name.into()),
        PolicySpecifier::FilterState(FilterState { key: _ }) => {
            return Err(d.reject(&at.field("filter_state"), "no filter keeps state to hash"));
        }
    };
    Ok(Some(HashPolicy { source, terminal }))
}
