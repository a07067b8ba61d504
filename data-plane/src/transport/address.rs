//! Facts about this host's own addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::OnceLock;

/// This host's own non-loopback address: what Envoy appends to `x-forwarded-for` when the peer is loopback
/// (Envoy: `LocalInfo::address`). Loopback when the host has no other. Computed once.
pub fn local_interface_address() -> IpAddr {
    static ADDRESS: OnceLock<IpAddr> = OnceLock::new();
    *ADDRESS.get_or_init(|| {
        // Connecting a datagram socket sends nothing: it asks the routing table for a source address.
        // The targets are documentation ranges (RFC 5737, RFC 3849): any default route answers.
        let by_route = |bind: SocketAddr, target: SocketAddr| -> Option<IpAddr> {
            let socket = UdpSocket::bind(bind).ok()?;
            socket.connect(target).ok()?;
            let address = socket.local_addr().ok()?.ip();
            (!address.is_loopback() && !address.is_unspecified()).then_some(address)
        };
        by_route((Ipv4Addr::UNSPECIFIED, 0).into(), (Ipv4Addr::new(192, 0, 2, 1), 9).into())
            .or_else(|| {
                by_route(
                    (Ipv6Addr::UNSPECIFIED, 0).into(),
                    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9).into(),
                )
            })
            .unwrap_or(Ipv4Addr::LOCALHOST.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interface_address_is_stable_and_never_unspecified() {
        let first = local_interface_address();
        assert!(!first.is_unspecified(), "an unspecified address says nothing about this host");
        assert_eq!(first, local_interface_address(), "it is computed once");
    }
}
