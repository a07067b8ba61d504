//! Reading the bootstrap: text, command-line overrides, translation.

use data_plane_core::config;
use data_plane_core::path::Finding;
use data_plane_core::translate::Overrides;
use std::path::PathBuf;
use xds_types::envoy::config::bootstrap::v3::Bootstrap;

/// A bootstrap that was read and found valid.
#[derive(Clone, Debug)]
pub struct Boot {
    /// What the proxy is built from.
    pub config: config::Bootstrap,
    /// The message it came from, for `/config_dump`.
    pub proto: Box<Bootstrap>,
    /// Fields that were set and have no effect.
    pub ignored: Vec<Finding>,
    /// Where to read it again on SIGHUP.
    pub origin: Option<Origin>,
}

/// Where a bootstrap is read from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// `--config-path`.
    pub path: Option<PathBuf>,
    /// `--config-yaml`, merged over the file.
    pub yaml: Option<String>,
    /// `--service-node` and the like.
    pub overrides: Overrides,
}

/// Why a bootstrap is refused: all reasons, each with its place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct BootError(pub Vec<String>);

impl Boot {
    /// Reads YAML or JSON.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn from_yaml(text: &str) -> Result<Self, BootError> {
        let _ = text;
        Err(BootError(vec!["being built".into()]))
    }
}
