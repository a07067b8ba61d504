//! Metadata, and where a value is inside of it.

use super::endpoint::LABELS;
use super::field::{self, ignored, required, unsupported};
use super::runtime;
use crate::config::MetadataMatch;
use crate::headers::{Metadata, MetadataKey, PathSegment};
use crate::path::{Diagnostics, Path, Rejected};
use xds_types::envoy::config::core::v3 as core_proto;
use xds_types::envoy::r#type::metadata::v3 as proto;
use xds_types::envoy::r#type::metadata::v3::metadata_key::path_segment::Segment;

/// A route's metadata.
pub(super) fn metadata(proto: Option<core_proto::Metadata>, at: &Path<'_>, d: &mut Diagnostics) -> Metadata {
    let Some(core_proto::Metadata { filter_metadata, typed_filter_metadata }) = proto else {
        return Metadata::default();
    };
    unsupported!(d, at, "no filter reads typed metadata"; typed_filter_metadata);
    filter_metadata.into_iter().map(|(name, fields)| (name.into(), runtime::json_object(fields))).collect()
}

/// What is asked of hosts: the namespace `envoy.lb`, which subsets go by. `None` where it is not there.
pub(super) fn of_hosts(
    proto: Option<core_proto::Metadata>,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Option<MetadataMatch> {
    let core_proto::Metadata { filter_metadata, typed_filter_metadata } = proto?;
    const WHY: &str = "hosts are matched by envoy.lb only";
    ignored!(d, at, WHY; typed_filter_metadata);
    let mut namespaces: Vec<_> = filter_metadata.into_iter().collect();
    namespaces.sort_by(|(a, _), (b, _)| a.cmp(b));
    let at = at.field("filter_metadata");
    let mut found = None;
    for (name, fields) in namespaces {
        if name == LABELS {
            found = Some(runtime::json_object(fields).iter().collect());
        } else {
            d.ignored(&at.key(&name), WHY);
        }
    }
    found
}

/// Where a value is.
pub(super) fn key(
    proto: Option<proto::MetadataKey>,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<MetadataKey, Rejected> {
    let proto::MetadataKey { key, path } = required(proto, at, d)?;
    let path = field::each(path, &at.field("path"), d, |proto, at, d| {
        let proto::metadata_key::PathSegment { segment } = proto;
        match segment {
            Some(Segment::Key(key)) => Ok(PathSegment::Key(key.into())),
            Some(Segment::Index(index)) => Ok(PathSegment::Index(index)),
            None => Err(d.reject(at, "one of key, index is required")),
        }
    });
    Ok(MetadataKey { namespace: key.into(), path: path.into() })
}
