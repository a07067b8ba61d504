//! End-to-end tests, one module per behaviour. `make test` builds our binaries and installs the real servers first.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod bad_input;
mod consul_client;
mod equivalence;
mod foreign;
mod journey;
mod peers;
mod sources;
