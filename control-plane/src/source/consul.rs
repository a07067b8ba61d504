//! Discovery of services and configuration in Consul.

pub mod client;
