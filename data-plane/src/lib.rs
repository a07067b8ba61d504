//! portolan-proxy as a library: a proxy that speaks Envoy's configuration.
//!
//! Modules, low to high; each imports only those before it (`tests/layering.rs` holds them to it):
//!
//! - [`stats`]: sharded counters, gauges and histograms under Envoy's names
//! - [`runtime`]: values by key that configuration refers to
//! - [`task`]: owned tasks, cancellation, the drain signal
//! - [`turn`]: the time, read once for each turn of a worker's loop
//! - [`transport`]: sockets and counted streams
//! - [`codec`]: HTTP/1.1 and HTTP/2 on the wire, both sides; bodies
//! - [`upstream`]: clusters, hosts, pools
//! - [`export`]: the way of telemetry out of the proxy
//! - [`trace`]: spans of requests
//! - [`http`]: one request's way: connection manager, filters, router, local replies
//! - [`network`]: network filters
//! - [`listener`]: sockets that accept, filter chain choice, draining
//! - [`xds`]: subscriptions and applying what they bring
//! - [`admin`]: Envoy's admin interface
//! - [`server`]: composition root

pub mod admin;
pub mod codec;
pub mod export;
pub mod http;
pub mod listener;
pub mod network;
pub mod runtime;
pub mod server;
pub mod stats;
pub mod task;
pub mod trace;
pub mod transport;
pub mod turn;
pub mod upstream;
pub mod xds;
