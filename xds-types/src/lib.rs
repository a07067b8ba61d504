//! One face for all generated types: Envoy's, from the crate `envoy-types`, and ours, from `proto/portolan`.

pub use envoy_types::pb::{cel, envoy, google, udpa, validate, xds};

/// Our own messages.
#[allow(missing_docs, clippy::all, reason = "generated; documented in proto/portolan")]
pub mod portolan {
    /// Resource kinds.
    pub mod config {
        /// Version 1.
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/portolan.config.v1.rs"));
        }
    }
}
