//! Packed messages: `typed_config` and everything else in a `google.protobuf.Any`.

use super::field;
use crate::path::{Diagnostics, Path, Rejected};
use prost::{Message, Name};
use xds_types::any;
pub(super) use xds_types::any::is;
use xds_types::envoy::config::core::v3::ExtensionConfigSource;
use xds_types::google::protobuf::Any;

/// The packed `M`.
pub(super) fn open<M: Message + Name + Default>(
    packed: &Any,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<M, Rejected> {
    any::unpack(packed).map_err(|e| d.reject(at, e))
}

/// The name of the packed type, for messages.
fn type_name(packed: &Any) -> &str {
    any::type_name(&packed.type_url).unwrap_or("unknown")
}

/// Refuses an extension that is not built, naming it.
pub(super) fn unknown(what: &str, name: &str, packed: &Any, at: &Path<'_>, d: &mut Diagnostics) -> Rejected {
    let type_name = type_name(packed);
    d.reject(at, format_args!("{what} {name:?} of type {type_name} is not supported"))
}

/// Refuses an extension whose configuration would be discovered.
pub(super) fn discovered(_: ExtensionConfigSource, at: &Path<'_>, d: &mut Diagnostics) -> Rejected {
    d.reject(&at.field("config_discovery"), "extension discovery (ECDS) is not supported")
}

/// The packed configuration of an extension that must have one.
pub(super) fn packed<'a>(
    config: Option<&'a Any>,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<&'a Any, Rejected> {
    field::required(config, &at.field("typed_config"), d)
}
