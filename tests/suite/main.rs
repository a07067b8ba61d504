//! End-to-end tests, one module per behaviour. `make test` builds our binaries and installs the real servers first.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod bad_input;
mod consul_client;
mod equivalence;
mod faults;
mod fleet_health;
mod foreign;
mod grpc_api;
mod health;
mod journey;
mod mass_loss;
mod peers;
mod proxy_protocol;
mod ratelimit;
mod releases;
mod resilience;
mod sds;
mod secrets;
mod secured_ports;
mod secured_stores;
mod sources;
mod tcp;
mod tls_verdicts;
mod tracing;
mod upgrades;
