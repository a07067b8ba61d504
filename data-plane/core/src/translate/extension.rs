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
    let message = any::unpack(packed).map_err(|e| d.reject(at, e))?;
    // A `TypedStruct` is read by the names of its fields, all of which must be known.
    if any::type_name(&packed.type_url).is_ok_and(|name| name == M::full_name()) {
        for any::UnknownFields { path, message, numbers } in any::unknown_fields(&packed.value, &message) {
            d.unknown(at, &path, unknown_text(&message, &numbers));
        }
    }
    Ok(message)
}

/// How a message names unknown fields.
pub(super) fn unknown_text(message: &str, numbers: &[u32]) -> String {
    let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    let (noun, verb) = if numbers.len() == 1 { ("field", "is") } else { ("fields", "are") };
    format!("{noun} {} of {message} {verb} not known here", numbers.join(", "))
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
