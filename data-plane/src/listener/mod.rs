//! Sockets that accept, the choice of a filter chain, and draining.

mod manager;

pub use manager::{Error, Info, Manager, Options, Prepared, State, WorkerSide};
