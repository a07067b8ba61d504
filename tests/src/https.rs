//! One request over TLS, with what the handshake said.

use crate::certs::Pair;
use crate::client::Answer;
use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// Longest wait for an answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// How a client connects.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<rustls::ClientConfig>,
    name: String,
}

/// An answer, and the certificates that the server showed, DER.
#[derive(Debug)]
pub struct Seen {
    /// The answer.
    pub answer: Answer,
    /// The server's chain.
    pub chain: Vec<Vec<u8>>,
    /// Protocol chosen by ALPN.
    pub alpn: String,
}

impl Tls {
    /// Trusts an authority (PEM), asks for a name, and may show a certificate.
    ///
    /// # Errors
    /// What is given is not PEM.
    pub fn new(authority: &str, name: &str, identity: Option<&Pair>) -> Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        for der in CertificateDer::pem_slice_iter(authority.as_bytes()) {
            roots.add(der?)?;
        }
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        // As browsers: of clients that put AES-256 first Envoy and ours make different choices (docs/tls.md).
        let shorter_aes = rustls::CipherSuite::TLS13_AES_128_GCM_SHA256;
        provider.cipher_suites.sort_by_key(|suite| suite.suite() != shorter_aes);
        let builder = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let chain: Result<Vec<_>, _> =
                    CertificateDer::pem_slice_iter(pair.chain.as_bytes()).collect();
                builder.with_client_auth_cert(chain?, PrivateKeyDer::from_pem_slice(pair.key.as_bytes())?)?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), name: name.to_owned() })
    }

    /// Connects.
    ///
    /// # Errors
    /// No connection, or no handshake.
    pub async fn connect(&self, addr: SocketAddr) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let stream = TcpStream::connect(addr).await?;
        let name = ServerName::try_from(self.name.clone())?;
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.config));
        Ok(tokio::time::timeout(DEADLINE, connector.connect(name, stream)).await??)
    }

    /// One request on a connection of its own, over what ALPN chose.
    ///
    /// # Errors
    /// No handshake, or no whole answer.
    pub async fn send(
        &self,
        addr: SocketAddr,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Seen> {
        let stream = self.connect(addr).await?;
        let (_, tls) = stream.get_ref();
        let chain = tls.peer_certificates().unwrap_or_default().iter().map(|c| c.to_vec()).collect();
        let alpn = String::from_utf8_lossy(tls.alpn_protocol().unwrap_or_default()).into_owned();
        let mut request = http::Request::builder().method(method);
        request = if alpn == "h2" {
            request.uri(format!("https://{}:{}{path}", self.name, addr.port()))
        } else {
            request.uri(path).header("host", format!("{}:{}", self.name, addr.port()))
        };
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into()))?;
        let exchange = async {
            let io = TokioIo::new(stream);
            let response = if alpn == "h2" {
                let (mut sender, driver) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(driver);
                sender.send_request(request).await?
            } else {
                let (mut sender, driver) = hyper::client::conn::http1::handshake(io).await?;
                tokio::spawn(driver);
                sender.send_request(request).await?
            };
            let (head, body) = response.into_parts();
            let body = body.collect().await?;
            Ok::<_, anyhow::Error>(Answer {
                status: head.status.as_u16(),
                headers: head.headers,
                trailers: body.trailers().cloned(),
                body: body.to_bytes(),
            })
        };
        let answer = tokio::time::timeout(DEADLINE, exchange).await.context("no answer")??;
        Ok(Seen { answer, chain, alpn })
    }

    /// `GET path`.
    ///
    /// # Errors
    /// As [`Tls::send`].
    pub async fn get(&self, addr: SocketAddr, path: &str) -> Result<Seen> {
        self.send(addr, "GET", path, &[], Bytes::new()).await
    }
}
