//! What requests are told apart by (Envoy `config.route.v3.RateLimit`).

use super::field::{self, ignored, required, unsupported};
use super::{address, edits, matcher, metadata};
use crate::config::{
    Hits, HitsNumber, LimitOverride, MatchAction, MetadataAction, RateLimit, RateLimitAction, ValueAction,
};
use crate::headers::format::{Format, Missing};
use crate::path::{Diagnostics, Path, Rejected};
use xds_types::envoy::config::core::v3::CidrRange;
use xds_types::envoy::config::route::v3::rate_limit::action::meta_data::Source;
use xds_types::envoy::config::route::v3::rate_limit::action::{self as action_proto, ActionSpecifier};
use xds_types::envoy::config::route::v3::rate_limit::r#override::{
    DynamicMetadata, OverrideSpecifier, RateLimitOverride,
};
use xds_types::envoy::config::route::v3::rate_limit::{Action, HitsAddend, Override, XRateLimitOption};
use xds_types::envoy::config::route::v3::{self as proto};
use xds_types::envoy::r#type::matcher::v3::AddressMatcher;
use xds_types::envoy::r#type::v3::RateLimitUnit;
use xds_types::google::protobuf::{BoolValue, UInt32Value};
use xds_types::xds;

/// Who reads a rate limit: that decides what it may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// Written at a route or a virtual host: any filter of its stage.
    Routes,
    /// Written into the local filter.
    Local,
    /// Written into the global filter.
    Global,
}

const FORMATTED: &str = "values are not formatted, as in Envoy without its runtime flag for that";

/// The rate limits of a list.
pub(super) fn limits(
    list: Vec<proto::RateLimit>,
    reader: Reader,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Vec<RateLimit> {
    field::each(list, at, d, |proto, at, d| limit(proto, reader, at, d))
}

fn limit(
    proto: proto::RateLimit,
    reader: Reader,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<RateLimit, Rejected> {
    let proto::RateLimit {
        stage,
        disable_key,
        actions,
        limit,
        hits_addend,
        apply_on_stream_done,
        x_ratelimit_option,
    } = proto;
    if reader != Reader::Routes {
        unsupported!(d, at, "is for rate limits of routes only"; stage, disable_key);
    }
    if reader == Reader::Local {
        unsupported!(d, at, "local rate limits have buckets of their own"; limit);
    }
    unsupported!(d, at, "rate limits are asked for before a request goes on only"; apply_on_stream_done);
    let x_at = at.field("x_ratelimit_option");
    let limit_at = at.field("limit");
    let hits_at = at.field("hits_addend");
    let hits_allowed = reader != Reader::Routes;
    if !hits_allowed {
        ignored!(d, at, "has an effect only in rate limits of filters themselves"; hits_addend);
    }
    Ok(RateLimit {
        stage: stage.map_or(0, |v| v.value),
        disable_key: disable_key.into(),
        actions: field::each(actions, &at.field("actions"), d, |proto, at, d| action(proto, reader, at, d)),
        limit: match limit {
            Some(proto) => Some(limit_override(proto, &limit_at, d)?),
            None => None,
        },
        hits: match hits_addend.filter(|_| hits_allowed) {
            Some(proto) => Some(hits(proto, &hits_at, d)?),
            None => None,
        },
        x_ratelimit: match field::variant(x_ratelimit_option, &x_at, d)? {
            XRateLimitOption::Unspecified => None,
            XRateLimitOption::Off => Some(false),
            XRateLimitOption::DraftVersion03 => Some(true),
        },
    })
}

fn limit_override(proto: Override, at: &Path<'_>, d: &mut Diagnostics) -> Result<LimitOverride, Rejected> {
    let Override { override_specifier } = proto;
    match override_specifier {
        Some(OverrideSpecifier::DynamicMetadata(DynamicMetadata { metadata_key })) => {
            let at = at.field("dynamic_metadata");
            Ok(LimitOverride::Metadata(metadata::key(metadata_key, &at.field("metadata_key"), d)?))
        }
        Some(OverrideSpecifier::RateLimit(RateLimitOverride { requests_per_unit, unit })) => {
            let at = at.field("rate_limit");
            let unit: RateLimitUnit = field::variant(unit, &at.field("unit"), d)?;
            Ok(LimitOverride::Fixed(requests_per_unit, unit as i32))
        }
        None => Err(d.reject(at, "one of dynamic_metadata, rate_limit is required")),
    }
}

fn hits(proto: HitsAddend, at: &Path<'_>, d: &mut Diagnostics) -> Result<Hits, Rejected> {
    let HitsAddend { number, format, is_negative_hits } = proto;
    let number = match (number, format.is_empty()) {
        (Some(number), true) => HitsNumber::Fixed(number.value),
        (None, false) => {
            let at = at.field("format");
            let format = Format::compile(&format, Missing::Empty).map_err(|e| d.reject(&at, e))?;
            if !format.is_single_command() {
                return Err(d.reject(&at, "must be exactly one command"));
            }
            HitsNumber::Format(format)
        }
        (Some(_), false) | (None, true) => {
            return Err(d.reject(at, "either number or format is required"));
        }
    };
    Ok(Hits { number, negative: is_negative_hits })
}

fn action(
    proto: Action,
    reader: Reader,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<RateLimitAction, Rejected> {
    let Action { action_specifier } = proto;
    let or =
        |key: String, default: &str| -> Box<str> { if key.is_empty() { default.into() } else { key.into() } };
    Ok(match required(action_specifier, at, d)? {
        ActionSpecifier::SourceCluster(action_proto::SourceCluster {}) => RateLimitAction::SourceCluster,
        ActionSpecifier::DestinationCluster(action_proto::DestinationCluster {}) => {
            RateLimitAction::DestinationCluster
        }
        ActionSpecifier::RequestHeaders(proto) => {
            let action_proto::RequestHeaders { header_name, descriptor_key, skip_if_absent } = proto;
            edits::name(&header_name, &at.field("request_headers").field("header_name"), d)?;
            let name = header_name.to_ascii_lowercase().into();
            RateLimitAction::Header(ValueAction { name, key: descriptor_key.into(), skip_if_absent })
        }
        ActionSpecifier::QueryParameters(proto) => {
            let action_proto::QueryParameters { query_parameter_name, descriptor_key, skip_if_absent } =
                proto;
            let name = query_parameter_name.into();
            RateLimitAction::QueryParameter(ValueAction { name, key: descriptor_key.into(), skip_if_absent })
        }
        ActionSpecifier::RemoteAddress(action_proto::RemoteAddress {}) => RateLimitAction::RemoteAddress,
        ActionSpecifier::MaskedRemoteAddress(proto) => masked(proto, &at.field("masked_remote_address"), d)?,
        ActionSpecifier::GenericKey(proto) => {
            let action_proto::GenericKey { descriptor_value, default_value, descriptor_key } = proto;
            ignored!(d, at.field("generic_key"), FORMATTED; default_value);
            RateLimitAction::Generic {
                key: or(descriptor_key, "generic_key"),
                value: descriptor_value.into(),
            }
        }
        ActionSpecifier::HeaderValueMatch(proto) => {
            let action_proto::HeaderValueMatch {
                descriptor_value,
                default_value,
                descriptor_key,
                expect_match,
                headers,
            } = proto;
            let at = at.field("header_value_match");
            ignored!(d, at, FORMATTED; default_value);
            RateLimitAction::HeaderMatch(MatchAction {
                key: or(descriptor_key, "header_match"),
                value: descriptor_value.into(),
                expected: expected(expect_match),
                matchers: field::each(headers, &at.field("headers"), d, matcher::header),
            })
        }
        ActionSpecifier::QueryParameterValueMatch(proto) => {
            let action_proto::QueryParameterValueMatch {
                descriptor_value,
                default_value,
                descriptor_key,
                expect_match,
                query_parameters,
            } = proto;
            let at = at.field("query_parameter_value_match");
            ignored!(d, at, FORMATTED; default_value);
            RateLimitAction::QueryMatch(MatchAction {
                key: or(descriptor_key, "query_match"),
                value: descriptor_value.into(),
                expected: expected(expect_match),
                matchers: field::each(query_parameters, &at.field("query_parameters"), d, matcher::query),
            })
        }
        ActionSpecifier::DynamicMetadata(proto) => {
            let at = at.field("dynamic_metadata");
            if reader != Reader::Routes {
                return Err(d.reject(&at, "deprecated, and for rate limits of routes only: use metadata"));
            }
            let action_proto::DynamicMetaData { descriptor_key, metadata_key, default_value } = proto;
            RateLimitAction::Metadata(MetadataAction {
                key: descriptor_key.into(),
                at: metadata::key(metadata_key, &at.field("metadata_key"), d)?,
                default: default_value.into(),
                of_route: false,
                skip_if_absent: false,
            })
        }
        ActionSpecifier::Metadata(proto) => of_metadata(proto, &at.field("metadata"), d)?,
        ActionSpecifier::Extension(_) => {
            return Err(d.reject(&at.field("extension"), "descriptor extensions are not supported"));
        }
        ActionSpecifier::RemoteAddressMatch(proto) => {
            remote_address_match(proto, &at.field("remote_address_match"), d)?
        }
    })
}

fn expected(proto: Option<BoolValue>) -> bool {
    proto.is_none_or(|v| v.value)
}

fn masked(
    proto: action_proto::MaskedRemoteAddress,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<RateLimitAction, Rejected> {
    let action_proto::MaskedRemoteAddress { v4_prefix_mask_len, v6_prefix_mask_len } = proto;
    let length = |proto: Option<UInt32Value>, most: u8, at: &Path<'_>, d: &mut Diagnostics| {
        let Some(UInt32Value { value }) = proto else { return Ok(most) };
        let fits = u8::try_from(value).ok().filter(|length| *length <= most);
        fits.ok_or_else(|| d.reject(at, format_args!("{value} is too long, must be 0 to {most}")))
    };
    Ok(RateLimitAction::MaskedRemoteAddress {
        v4: length(v4_prefix_mask_len, 32, &at.field("v4_prefix_mask_len"), d)?,
        v6: length(v6_prefix_mask_len, 128, &at.field("v6_prefix_mask_len"), d)?,
    })
}

fn of_metadata(
    proto: action_proto::MetaData,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<RateLimitAction, Rejected> {
    let action_proto::MetaData { descriptor_key, metadata_key, default_value, source, skip_if_absent } =
        proto;
    let source_at = at.field("source");
    let of_route = match field::variant(source, &source_at, d)? {
        Source::Dynamic => false,
        Source::RouteEntry => true,
        Source::ClusterEntry | Source::ClusterLocalityEntry => {
            return Err(d.reject(&source_at, "metadata of clusters is not supported"));
        }
    };
    Ok(RateLimitAction::Metadata(MetadataAction {
        key: descriptor_key.into(),
        at: metadata::key(metadata_key, &at.field("metadata_key"), d)?,
        default: default_value.into(),
        of_route,
        skip_if_absent,
    }))
}

fn remote_address_match(
    proto: action_proto::RemoteAddressMatch,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<RateLimitAction, Rejected> {
    let action_proto::RemoteAddressMatch { descriptor_value, descriptor_key, default_value, address_matcher } =
        proto;
    let value_at = at.field("descriptor_value");
    let value = Format::compile(&descriptor_value, Missing::Empty).map_err(|e| d.reject(&value_at, e))?;
    let at = at.field("address_matcher");
    let AddressMatcher { ranges, invert_match } = required(address_matcher, &at, d)?;
    Ok(RateLimitAction::RemoteAddressMatch {
        key: if descriptor_key.is_empty() { "remote_address_match".into() } else { descriptor_key.into() },
        value,
        default: default_value.into(),
        ranges: field::each(ranges, &at.field("ranges"), d, |proto, at, d| {
            let xds::core::v3::CidrRange { address_prefix, prefix_len } = proto;
            address::range(CidrRange { address_prefix, prefix_len }, at, d)
        }),
        invert: invert_match,
    })
}
