//! The xDS server over real connections, in one process: sources' events in, discovery responses out.

#[cfg(test)]
mod bench;
#[cfg(test)]
mod client;
#[cfg(test)]
mod scenes;
