//! `DataSource`: text or bytes in place, in a file or in an environment variable.

use super::Options;
use super::field::unsupported;
use crate::path::{Diagnostics, Path, Rejected};
use xds_types::envoy::config::core::v3::DataSource;
use xds_types::envoy::config::core::v3::data_source::Specifier;

/// The bytes; read once.
pub(super) fn bytes(
    proto: DataSource,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<Vec<u8>, Rejected> {
    let DataSource { watched_directory, specifier } = proto;
    unsupported!(d, at, "is read once; watching it is not supported"; watched_directory);
    match specifier {
        Some(Specifier::InlineString(text)) => Ok(text.into_bytes()),
        Some(Specifier::InlineBytes(bytes)) => Ok(bytes),
        Some(Specifier::Filename(path)) => o
            .data
            .file(path.as_ref())
            .map_err(|e| d.reject(&at.field("filename"), format_args!("{path}: {e}"))),
        Some(Specifier::EnvironmentVariable(name)) => match o.data.variable(&name) {
            Ok(value) => Ok(value.into_bytes()),
            Err(e) => Err(d.reject(&at.field("environment_variable"), format_args!("{name}: {e}"))),
        },
        None => {
            Err(d
                .reject(at, "one of filename, inline_bytes, inline_string, environment_variable is required"))
        }
    }
}

/// The bytes as text.
pub(super) fn text(
    proto: DataSource,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<String, Rejected> {
    String::from_utf8(bytes(proto, at, d, o)?).map_err(|_| d.reject(at, "is not UTF-8 text"))
}
