//! Metadata, and where a value is inside of it.

use super::field::{self, required, unsupported};
use super::runtime;
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
