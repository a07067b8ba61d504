//! TLS of our own ports: certificates from files, read again when they change; client certificates by an authority.

use crate::ads::Peer;
use crate::secret::certificate::names_of;
use crate::settings::{PortTls, SettingsError};
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

/// A handshake must end within this time.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at a time; more connections wait to be accepted.
const MAX_HANDSHAKES: usize = 256;
/// Connections that wait to be served.
const QUEUE: usize = 64;
/// How often files are looked at.
const RELOAD: Duration = Duration::from_secs(2);
/// A quiet connection is probed after this long, so that a peer that is gone is noticed whatever it speaks.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// Wait after a failed accept, which running out of files makes fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the files of a port hold.
type Files = Vec<Vec<u8>>;

/// TLS of one port.
pub(super) struct Tls {
    flags: PortTls,
    config: ArcSwap<ServerConfig>,
    read: parking_lot::Mutex<Files>,
    alpn: &'static [&'static [u8]],
}

impl Tls {
    /// Reads the files.
    pub(super) fn load(flags: PortTls, alpn: &'static [&'static [u8]]) -> Result<Arc<Self>, SettingsError> {
        let fail = |e: String| SettingsError::new(flags.name(), e);
        let files = read(&flags).map_err(fail)?;
        let config = build(&files, alpn).map_err(fail)?;
        let (config, read) = (ArcSwap::from_pointee(config), parking_lot::Mutex::new(files));
        Ok(Arc::new(Self { flags, config, read, alpn }))
    }

    /// Looks for changed files until stopped. Files that do not fit together are told of, and the old ones serve on.
    pub(super) async fn follow(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(RELOAD) => {}
                () = stop.cancelled() => return,
            }
            let this = Arc::clone(&self);
            let _ = tokio::task::spawn_blocking(move || this.look()).await;
        }
    }

    fn look(&self) {
        let name = self.flags.name();
        let files = match read(&self.flags) {
            Ok(files) if files == *self.read.lock() => return,
            Ok(files) => files,
            Err(reason) => return debug!(port = name, reason, "certificate files are not there"),
        };
        match build(&files, self.alpn) {
            Ok(config) => {
                self.config.store(Arc::new(config));
                info!(port = name, "certificate files changed and are in use");
            }
            Err(reason) => {
                error!(port = name, reason, "certificate files changed and cannot be used; the old ones are")
            }
        }
        *self.read.lock() = files; // told once
    }

    /// Makes a handshake, within its time.
    async fn handshake(&self, stream: TcpStream) -> io::Result<Conn> {
        let address = stream.peer_addr().ok();
        let acceptor = TlsAcceptor::from(self.config.load_full());
        let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no handshake in time"))??;
        let names = self.flags.client_ca.as_ref().map(|_| {
            let shown = stream.get_ref().1.peer_certificates().and_then(|all| all.first());
            shown.map(|der| names_of(der)).unwrap_or_default().into()
        });
        Ok(Conn { io: Io::Tls(Box::new(stream)), peer: Peer { address, names } })
    }
}

fn read(flags: &PortTls) -> Result<Files, String> {
    [Some(&flags.certificate), Some(&flags.key), flags.client_ca.as_ref()]
        .into_iter()
        .flatten()
        .map(|path| std::fs::read(path).map_err(|e| format!("{}: {e}", path.display())))
        .collect()
}

fn build(files: &Files, alpn: &[&[u8]]) -> Result<ServerConfig, String> {
    let [chain, key, rest @ ..] = files.as_slice() else { return Err("files are missing".to_owned()) };
    let certificates = |pem: &[u8], what: &str| -> Result<Vec<CertificateDer<'static>>, String> {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        match all {
            Ok(all) if !all.is_empty() => Ok(all),
            _ => Err(format!("{what} holds no certificate in PEM")),
        }
    };
    let chain = certificates(chain, "the certificate file")?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "the key file holds no private key in PEM")?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let builder = match rest.first() {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = rustls::RootCertStore::empty();
            for der in certificates(pem, "the client authorities' file")? {
                roots.add(der).map_err(|e| format!("the client authorities' file: {e}"))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|e| e.to_string())?)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|e| format!("certificate and key do not fit together: {e}"))?;
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    Ok(config)
}

/// A connection, with TLS or without.
pub(super) struct Conn {
    io: Io,
    /// Who is on the other side.
    pub(super) peer: Peer,
}

enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Accepts until stopped; handshakes run beside each other, so that a slow client holds up no other.
pub(super) fn accept(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    stop: CancellationToken,
) -> mpsc::Receiver<Conn> {
    let (ready, connections) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let slots = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        let mut handshakes = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "connection not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 4);
            let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
            let Some(tls) = tls.clone() else {
                let peer = Peer { address: stream.peer_addr().ok(), names: None };
                if ready.send(Conn { io: Io::Plain(stream), peer }).await.is_err() {
                    break;
                }
                continue;
            };
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { break };
            let ready = ready.clone();
            handshakes.spawn(async move {
                match tls.handshake(stream).await {
                    Ok(conn) => drop(ready.send(conn).await),
                    Err(error) => debug!(port = tls.flags.name(), %error, "no handshake"),
                }
                drop(slot);
            });
            while handshakes.try_join_next().is_some() {}
        }
    });
    connections
}

impl AsyncRead for Conn {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(s) => Pin::new(s).poll_read(cx, buf),
            Io::Tls(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Conn {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().io {
            Io::Plain(s) => Pin::new(s).poll_write(cx, buf),
            Io::Tls(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().io {
            Io::Plain(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Io::Tls(s) => Pin::new(s).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(s) => s.is_write_vectored(),
            Io::Tls(s) => s.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(s) => Pin::new(s).poll_flush(cx),
            Io::Tls(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Io::Tls(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}
