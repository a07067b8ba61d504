//! HTTP/1.1 and HTTP/2 on the wire, both sides, and the bodies that run between them.
//!
//! The head and body types are ours, so that what is beneath can change without touching a filter.

pub mod body;

pub use body::{Body, BodyError, BodySource, Frame};
