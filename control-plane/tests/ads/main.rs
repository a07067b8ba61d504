//! The xDS server over real connections, in one process: sources' events in, discovery responses out.

mod bench;
mod client;
mod scenes;
