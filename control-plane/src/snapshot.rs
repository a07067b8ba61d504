//! What is published: resources encoded once, their versions, and the sets that groups of nodes see.
//!
//! Pure but for [`Cache`], the slot between the pipeline and the streams. Written by `translate` and the
//! pipeline, read by `ads`. Knows nothing of how resources are made or of streams.

mod cache;
mod canonical;
mod check;
mod diff;
mod resource;
mod set;

pub use cache::{Audience, Cache, Published};
pub use canonical::canonical;
pub use check::{Dangling, dangling, withhold_dangling};
pub use diff::changed;
pub use resource::{Reference, Resource, Version};
pub use set::{Resolve, Set, Snapshot};
