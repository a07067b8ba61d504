//! Dynamic configuration: subscriptions and applying what they bring.
//!
//! [`subscription`] are state machines without I/O; `stream` carries them over gRPC, `file` reads files; both hand
//! what they get to `apply`, which translates, builds and publishes it, resource by resource, and says what to
//! acknowledge. `warm` keeps the order: clusters before listeners, listeners with their routes. All of it runs on
//! the control thread; requests read only what was published.

mod kind;
pub mod subscription;

pub use kind::Kind;
