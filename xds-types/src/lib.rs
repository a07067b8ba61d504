//! One face for all generated types: Envoy's, from the crate `envoy-types`, and ours, from `proto/portolan`.
//!
//! | module | what it owns |
//! |---|---|
//! | [`descriptors`] | the descriptor pool of all of them, built once |
//! | [`type_url`] | the resource types of xDS and their type URLs |
//! | [`any`] | packing and unpacking `Any`, `TypedStruct` |
//! | [`canonical`] | one encoding for one message |
//! | [`text`] | YAML and JSON to messages and back, with positions |
//! | [`resource`] | the text form `{kind, name, labels, spec}` of our own objects |
//! | [`rules`] | the generic validator for `validate.rules` |
//! | [`redact`] | blanks sensitive fields |
//!
//! Called by every other crate. Knows message types but never what they mean: `data-plane-core` and
//! `control-plane` translate them.

pub mod any;
pub mod canonical;
pub mod descriptors;
pub mod redact;
pub mod resource;
pub mod rules;
pub mod text;
pub mod type_url;
pub mod typed_struct;

pub use descriptors::{pool, release};
pub use envoy_types::pb::{cel, envoy, google, io, ratelimit, udpa, validate, xds};
pub use generated::portolan;
pub use type_url::ResourceType;

#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated; documented in proto/portolan")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/portolan.rs"));
}

mod quiet {
    use crate::portolan::api::v1::CreateTokenResponse;
    use crate::portolan::config::v1::{Certificate, Value};
    use crate::redact::REDACTED;
    use std::fmt;

    impl fmt::Debug for Certificate {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Certificate").field("chain", &self.chain).field("key", &REDACTED).finish()
        }
    }

    impl fmt::Debug for CreateTokenResponse {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("CreateTokenResponse")
                .field("token", &REDACTED)
                .field("stored", &self.stored)
                .finish()
        }
    }

    impl fmt::Debug for Value {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Value").field("text", &REDACTED).finish()
        }
    }
}
