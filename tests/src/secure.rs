//! An HTTPS origin that says of every request which connection it came on and how that began, and TLS before another
//! origin, whose handshakes fail at times.

use crate::pki::Pki;
use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{HandshakeKind, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// A running origin; stops, and closes its connections, when dropped.
#[derive(Debug)]
pub struct Secure {
    /// Where it listens.
    pub addr: SocketAddr,
    _serving: JoinSet<()>,
}

/// Certificates by the first label of a name.
#[derive(Debug)]
struct ByName {
    first: Arc<CertifiedKey>,
    named: BTreeMap<String, Arc<CertifiedKey>>,
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let label = hello.server_name().and_then(|name| name.split('.').next());
        Some(Arc::clone(label.and_then(|label| self.named.get(label)).unwrap_or(&self.first)))
    }
}

/// What a TLS server of these certificates is made of: files `NAME.pem` of `pki`, each for the SNI `NAME.example.com`,
/// the first one for all else. Clients may show a certificate of `ca`.
///
/// # Errors
/// A file is missing.
pub fn server_config(pki: &Pki, names: &[&str], alpn: &[&str]) -> Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut named = BTreeMap::new();
    for name in names {
        let chain = pki.read(&format!("{name}.pem"))?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(pki.read(&format!("{name}.key"))?.as_bytes())?;
        let key = CertifiedKey::new(chain, provider.key_provider.load_private_key(key)?);
        named.insert((*name).to_owned(), Arc::new(key));
    }
    let first = Arc::clone(named.get(*names.first().context("a name")?).context("a certificate")?);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pki.read("ca.pem")?.as_bytes())?)?;
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(Arc::new(ByName { first, named }));
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

impl Secure {
    /// Starts one with the certificates of [`server_config`]. Its answers are lines such as
    /// `connection 1, sni a.example.com, alpn h2, anonymous, new`; a request with `x-do: close` ends its connection.
    ///
    /// # Errors
    /// A file is missing.
    pub async fn start(pki: &Pki, names: &[&str], alpn: &[&str]) -> Result<Self> {
        let acceptor = TlsAcceptor::from(server_config(pki, names, alpn)?);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let (mut connections, mut count) = (JoinSet::new(), 0_u64);
            while let Ok((stream, _)) = listener.accept().await {
                count += 1;
                connections.spawn(serve(stream, acceptor.clone(), count));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { addr, _serving: serving })
    }
}

/// TLS before an origin that speaks without it. Of every three connections one is closed once the client's first
/// message has come, one is answered with what is no TLS, and one is good.
#[derive(Debug)]
pub struct Shaky {
    /// Where it listens.
    pub addr: SocketAddr,
    origin: watch::Sender<Option<SocketAddr>>,
    failed: Arc<AtomicU64>,
    _serving: JoinSet<()>,
}

impl Shaky {
    /// Starts one with the certificates of [`server_config`].
    ///
    /// # Errors
    /// A file is missing.
    pub async fn start(pki: &Pki, names: &[&str]) -> Result<Self> {
        let acceptor = TlsAcceptor::from(server_config(pki, names, &[])?);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let (origin, failed) = (watch::Sender::new(None), Arc::<AtomicU64>::default());
        let (target, failures) = (origin.subscribe(), Arc::clone(&failed));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let (mut connections, mut count) = (JoinSet::new(), 0_u64);
            while let Ok((stream, _)) = listener.accept().await {
                count += 1;
                if count % 3 != 0 {
                    failures.fetch_add(1, Relaxed);
                }
                connections.spawn(relay(stream, acceptor.clone(), count % 3, target.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { addr, origin, failed, _serving: serving })
    }

    /// Whose bytes it carries from now on.
    pub fn lead_to(&self, origin: SocketAddr) {
        self.origin.send_replace(Some(origin));
    }

    /// Handshakes that failed so far.
    pub fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }
}

async fn relay(
    mut stream: TcpStream,
    acceptor: TlsAcceptor,
    kind: u64,
    mut origin: watch::Receiver<Option<SocketAddr>>,
) {
    if kind != 0 {
        let mut hello = [0; 4096];
        let _ = stream.read(&mut hello).await;
        if kind == 1 {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
        return;
    }
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    let Ok(Some(origin)) = origin.wait_for(Option::is_some).await.map(|addr| *addr) else { return };
    let Ok(mut behind) = TcpStream::connect(origin).await else { return };
    // Either end may break off.
    let _ = tokio::io::copy_bidirectional(&mut stream, &mut behind).await;
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, number: u64) {
    let _ = stream.set_nodelay(true);
    // Whoever refuses the certificate shows it elsewhere.
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let (_, tls) = stream.get_ref();
    let kind = match tls.handshake_kind() {
        Some(HandshakeKind::Resumed) => "resumed",
        _ => "new",
    };
    let told: Arc<str> = format!(
        "connection {number}, sni {}, alpn {}, {}, {kind}",
        tls.server_name().unwrap_or("-"),
        tls.alpn_protocol().map_or("-".into(), String::from_utf8_lossy),
        if tls.peer_certificates().is_some() { "certified" } else { "anonymous" },
    )
    .into();
    let service = service_fn(move |request: Request<Incoming>| {
        let told = Arc::clone(&told);
        async move {
            let mut answer = Response::builder();
            if request.headers().get("x-do").is_some_and(|value| value == "close") {
                answer = answer.header("connection", "close");
            }
            let body = Full::new(Bytes::copy_from_slice(told.as_bytes()));
            Ok::<_, Infallible>(answer.body(body).unwrap_or_default())
        }
    });
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}
