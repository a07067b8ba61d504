//! `portolan-control`: an xDS control plane over an embedded store, etcd, Consul or files.
//!
//! Data flows one way: `source -> model -> translate -> snapshot -> ads`, run by [`pipeline`]. Each module
//! imports only those listed before it; `tests/layering.rs` holds them to it.
//!
//! | module | what it owns |
//! |---|---|
//! | [`model`] | instances, objects, and the world they make; pure |
//! | [`secret`] | secrets: checked, sealed, opened |
//! | [`authority`] | the built-in authority, which issues identities |
//! | [`release`] | what every change did, to be shown and undone; pure |
//! | [`snapshot`] | encoded resources, versions, and the cache that streams read; pure |
//! | [`source`] | where instances and objects come from |
//! | [`translate`] | the world made into xDS resources; pure |
//! | [`ads`] | the xDS server |
//! | [`pipeline`] | events in, publications out |
//! | [`access`] | who may call the API, and what each did |
//! | [`fleet`] | how proxies see the health of services |
//! | [`ratelimit`] | the rate-limit service, its counters in memory or in Redis |
//! | [`keep`] | the last good world on disk |
//! | [`api`] | what people and tools ask: gRPC and REST |
//! | [`settings`] | what the process is told at its start |
//! | [`server`] | the composition root |

pub mod access;
pub mod ads;
pub mod api;
pub mod authority;
pub mod fleet;
pub mod keep;
pub mod model;
pub mod pipeline;
pub mod ratelimit;
pub mod release;
pub mod secret;
pub mod server;
pub mod settings;
pub mod snapshot;
pub mod source;
pub mod translate;
