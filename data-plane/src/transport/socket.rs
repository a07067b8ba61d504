//! Socket options, binding and connecting.

use data_plane_core::config::TcpKeepalive;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};

/// Whether further sockets may bind the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// SO_REUSEPORT: one socket a worker, the kernel spreads connections over them.
    ReusePort,
    /// This socket alone.
    Exclusive,
}

/// Backlog when the configuration names none: the kernel cuts it down to `net.core.somaxconn`.
pub const DEFAULT_BACKLOG: u32 = i32::MAX as u32;

/// A socket bound to `address`, not listening yet. An IPv6 socket serves IPv6 only (Envoy:
/// `ipv4_compat` is off by default).
///
/// # Errors
/// The system's reason, for instance address in use.
pub fn bind(address: SocketAddr, sharing: Sharing) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // Accepted connections have it from here: no call for each.
    socket.set_tcp_nodelay(true)?;
    // Lets a restarted proxy bind while old connections linger in TIME_WAIT.
    socket.set_reuse_address(true)?;
    if sharing == Sharing::ReusePort {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Starts to listen. `backlog` is in connections.
///
/// # Errors
/// The system's reason.
pub fn listen(socket: &Socket, backlog: u32) -> io::Result<()> {
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))
}

/// The address a bound socket has: names the port chosen for port 0.
///
/// # Errors
/// The system's reason; `Unsupported` for a socket that is not IP.
pub fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// The accepting side of a listening socket, for the current tokio runtime.
///
/// # Errors
/// The system's reason.
pub fn into_listener(socket: Socket) -> io::Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::from_std(StdListener::from(socket))
}

/// Readies an accepted connection: `keepalive`, beside TCP_NODELAY, which it has from [`bind`]. Fails only when the
/// peer is gone already, which the first read tells anyway.
pub fn tune_accepted(stream: &TcpStream, keepalive: Option<TcpKeepalive>) {
    if let Some(keepalive) = keepalive {
        let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive_options(keepalive));
    }
}

/// Connects with TCP_NODELAY and `keepalive`. No deadline: the caller owns it.
///
/// # Errors
/// The system's reason.
///
/// # Cancel safety
/// Dropping the future closes the socket.
pub async fn connect(address: SocketAddr, keepalive: Option<TcpKeepalive>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    if let Some(keepalive) = keepalive {
        SockRef::from(&socket).set_tcp_keepalive(&keepalive_options(keepalive))?;
    }
    socket.connect(address).await
}

/// Makes closing the socket a reset: what is not sent yet is lost, and the peer is told of a failure. Fails only
/// when the connection is gone already.
pub fn reset_on_close(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

fn keepalive_options(keepalive: TcpKeepalive) -> socket2::TcpKeepalive {
    let mut options = socket2::TcpKeepalive::new();
    if let Some(idle) = keepalive.idle {
        options = options.with_time(idle);
    }
    if let Some(interval) = keepalive.interval {
        options = options.with_interval(interval);
    }
    if let Some(probes) = keepalive.probes {
        options = options.with_retries(probes);
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn loopback() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 0).into()
    }

    #[test]
    fn sockets_that_share_bind_the_port_chosen_for_the_first() {
        let first = bind(loopback(), Sharing::ReusePort).unwrap();
        let address = local_address(&first).unwrap();
        assert_ne!(address.port(), 0, "the system chose a port");
        let second = bind(address, Sharing::ReusePort).unwrap();
        assert_eq!(local_address(&second).unwrap(), address);
    }

    #[test]
    fn an_exclusive_address_that_listens_cannot_be_bound_again() {
        let first = bind(loopback(), Sharing::Exclusive).unwrap();
        listen(&first, 1).unwrap();
        let error = bind(local_address(&first).unwrap(), Sharing::Exclusive).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn an_ipv6_socket_leaves_the_ipv4_port_free() {
        let Ok(v6) = bind((Ipv6Addr::UNSPECIFIED, 0).into(), Sharing::Exclusive) else {
            return; // The host has no IPv6.
        };
        listen(&v6, 1).unwrap();
        let port = local_address(&v6).unwrap().port();
        bind((Ipv4Addr::UNSPECIFIED, port).into(), Sharing::Exclusive)
            .expect("v6only: the same port over IPv4 belongs to others");
    }

    #[tokio::test]
    async fn accepted_sockets_have_nodelay() {
        let server = bind(loopback(), Sharing::Exclusive).unwrap();
        listen(&server, 1).unwrap();
        let listener = into_listener(server).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        assert!(accepted.nodelay().unwrap());
    }

    #[tokio::test]
    async fn connected_sockets_have_nodelay_and_keepalive() {
        let server = bind(loopback(), Sharing::Exclusive).unwrap();
        listen(&server, 1).unwrap();
        let keepalive = TcpKeepalive {
            probes: Some(3),
            idle: Some(Duration::from_secs(7)),
            interval: Some(Duration::from_secs(2)),
        };
        let stream = connect(local_address(&server).unwrap(), Some(keepalive)).await.unwrap();
        let socket = SockRef::from(&stream);
        assert!(stream.nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(7));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(2));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
    }
}
