//! Where a request comes from: x-forwarded-*, x-envoy-internal, x-request-id, via.
//!
//! Called once a request by the connection manager, before routing. As Envoy's
//! `configuration/http/http_conn_man/headers` and its connection manager do it.

use super::RequestHead;
use std::net::{IpAddr, SocketAddr};

/// The connection manager's rules, made once from its configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The peer is the client: this proxy is an edge.
    pub use_remote_address: bool,
    /// Trusted proxies in front of this one.
    pub xff_num_trusted_hops: u32,
    /// Leave x-forwarded-for alone.
    pub skip_xff_append: bool,
    /// Set x-forwarded-port when absent.
    pub append_x_forwarded_port: bool,
    /// Appended to `via`; empty: not.
    pub via: Box<str>,
    /// Make x-request-id when missing.
    pub generate_request_id: bool,
    /// Keep an external client's x-request-id.
    pub preserve_external_request_id: bool,
}

/// What the connection tells of a request.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// The peer, as restored by listener filters.
    pub peer: SocketAddr,
    /// Where it connected to.
    pub local: SocketAddr,
    /// Whether it is encrypted.
    pub is_tls: bool,
    /// The address of this machine that is put into x-forwarded-for in place of a loopback peer.
    pub interface: Option<IpAddr>,
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The client as far as it can be trusted. Port 0 when it comes from x-forwarded-for.
    pub client: SocketAddr,
    /// From inside: x-envoy-internal is set.
    pub internal: bool,
}

/// Edits a request as it comes in and says where it comes from. `random` makes the request id.
pub fn accept(head: &mut RequestHead, connection: &Connection, rules: &Rules, random: u128) -> Origin {
    let _ = (head, rules, random);
    Origin { client: connection.peer, internal: false }
}
