//! Envoy's admin interface: what the proxy is, does and counts, and a few levers.
//!
//! [`serve`] answers HTTP/1.1 on the control thread and knows the proxy only as [`Proxy`], which `server` makes.
//! Reads are GET, levers are POST. Large answers are made piece by piece as the client takes them.

mod access_log;
mod clusters;
mod commands;
mod dump;
mod info;
mod listeners;
mod logging;
mod page;
mod proxy;
mod runtime;
mod serve;
mod stats;
mod telemetry;

pub use access_log::Logs;
pub use dump::{Item, List, Section};
pub use proxy::{About, Action, Ignored, Memory, Proxy, ServerState};
pub use serve::serve;

#[cfg(test)]
mod tests;
