//! The world, made into xDS resources for each node group.
//!
//! Pure. Called by the pipeline with what changed, and by the API to check what it is about to store: a write
//! past the API goes through the same checks here, and a bad object is set aside alone.

mod admission;

pub use admission::{Admission, ObjectState, Objects, admit, settle};
