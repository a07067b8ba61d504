//! The descriptors of every message this crate knows, Envoy's and ours.
//!
//! Read by [`crate::text`], [`crate::rules`], [`crate::redact`] and [`crate::any`]. Decoding takes some tens of
//! milliseconds and about 17 MiB, so there is one pool for the process, kept until [`release`].

use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use prost_reflect::{DescriptorPool, DynamicMessage, ExtensionDescriptor, MessageDescriptor};

use crate::rules::Compiled;
use crate::typed_struct;

static ENVOY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/envoy.fds"));
static PORTOLAN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/portolan.fds"));

/// A pool, and what was worked out from it.
pub(crate) struct Generation {
    pool: DescriptorPool,
    /// Compiled `validate.rules`.
    pub(crate) rules: Compiled,
    /// The options that mark a field sensitive.
    pub(crate) marks: OnceLock<Vec<ExtensionDescriptor>>,
}

impl Generation {
    fn of(pool: DescriptorPool) -> Self {
        Self { rules: Compiled::new(&pool), marks: OnceLock::new(), pool }
    }

    fn decode() -> Self {
        let mut pool =
            DescriptorPool::decode(ENVOY).expect("INVARIANT: the embedded descriptors of Envoy are whole");
        pool.add_file_descriptor_protos(typed_struct::files())
            .expect("INVARIANT: TypedStruct needs only Struct");
        pool.decode_file_descriptor_set(PORTOLAN).expect("INVARIANT: our embedded descriptors fit Envoy's");
        Self::of(pool)
    }
}

static CURRENT: RwLock<Option<Arc<Generation>>> = RwLock::new(None);

fn current() -> Arc<Generation> {
    if let Some(current) = &*CURRENT.read().unwrap_or_else(PoisonError::into_inner) {
        return Arc::clone(current);
    }
    let mut current = CURRENT.write().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(current.get_or_insert_with(|| Arc::new(Generation::decode())))
}

/// The generation that a descriptor belongs to: the current one, or one around a pool that was released.
pub(crate) fn generation(of: &MessageDescriptor) -> Arc<Generation> {
    let current = current();
    if current.pool == *of.parent_pool() {
        return current;
    }
    Arc::new(Generation::of(of.parent_pool().clone()))
}

/// The pool. The first call decodes it; call it early where that must not fall into a request.
pub fn pool() -> DescriptorPool {
    current().pool.clone()
}

/// Gives back the memory of the descriptors; the next use decodes them again. Worth it for a process that has
/// read its configuration and waits. Call it on the thread that used them: an allocator keeps what another
/// thread frees. Must not run while another thread uses this crate, since messages of two pools do not mix.
pub fn release() {
    *CURRENT.write().unwrap_or_else(PoisonError::into_inner) = None;
}

/// The descriptor of a message by its full name, such as `envoy.config.cluster.v3.Cluster`.
pub fn message(full_name: &str) -> Option<MessageDescriptor> {
    pool().get_message_by_name(full_name)
}

/// The descriptor of a generated type.
///
/// # Panics
/// Never for the types of this crate; a test holds that each of them has a descriptor.
pub fn of<M: prost::Name>() -> MessageDescriptor {
    message(&M::full_name()).expect("INVARIANT: every generated type has a descriptor")
}

/// A typed message as a dynamic one.
pub fn to_dynamic<M: prost::Message + prost::Name>(typed: &M) -> DynamicMessage {
    DynamicMessage::decode(of::<M>(), &*typed.encode_to_vec())
        .expect("INVARIANT: an encoded message decodes as its own type")
}

/// A dynamic message as a typed one.
///
/// # Errors
/// When the message is of another type, or nested deeper than protobuf allows (100 levels).
pub fn from_dynamic<M: prost::Message + prost::Name + Default>(
    dynamic: &DynamicMessage,
) -> Result<M, prost::DecodeError> {
    M::decode(&*prost::Message::encode_to_vec(dynamic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_of_the_build_script_asks_for_the_version_that_the_workspace_pins() {
        let manifest = include_str!("../../Cargo.toml");
        let pin = format!("envoy-types = \"={}\"", env!("ENVOY_TYPES_VERSION"));
        assert!(manifest.lines().any(|line| line == pin), "Cargo.toml must hold `{pin}`, as build.rs does");
    }

    #[test]
    fn descriptors_of_both_families_are_there() {
        for name in [
            "envoy.config.bootstrap.v3.Bootstrap",
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
            "envoy.service.discovery.v3.DeltaDiscoveryResponse",
            "ratelimit.config.ratelimit.v3.RateLimitConfig",
            "xds.type.v3.TypedStruct",
            "udpa.type.v1.TypedStruct",
            "google.protobuf.Any",
            "portolan.config.v1.Resource",
        ] {
            assert!(message(name).is_some(), "{name} has no descriptor");
        }
        assert!(pool().all_messages().len() > 1600);
    }

    #[test]
    fn a_message_of_a_released_pool_still_has_its_rules_and_marks() {
        let pool = DescriptorPool::decode(ENVOY).unwrap();
        let old = pool.get_message_by_name("envoy.config.core.v3.Node").unwrap();
        assert!(!Arc::ptr_eq(&generation(&old), &current()), "it belongs to another pool");
        assert!(crate::rules::check_dynamic(&DynamicMessage::new(old.clone())).is_empty());
        crate::redact::redact(&mut DynamicMessage::new(old));
    }

    #[test]
    fn a_message_survives_the_way_to_dynamic_and_back() {
        let node = crate::envoy::config::core::v3::Node { id: "a".into(), ..Default::default() };
        assert_eq!(from_dynamic(&to_dynamic(&node)), Ok(node));
    }
}
