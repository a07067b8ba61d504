//! Calls of the REST API.

use anyhow::{Context, Result};
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::{Client as Pool, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for an answer.
const DEADLINE: Duration = Duration::from_secs(30);

/// The control plane refused.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
struct Refused {
    status: StatusCode,
    reason: String,
}

/// Whether the control plane does not know what was asked for.
pub(crate) fn is_not_found(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refused>().is_some_and(|r| r.status == StatusCode::NOT_FOUND)
}

/// Percent-encodes all but RFC 3986's unreserved characters.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte.into()),
            other => {
                let _ = write!(out, "%{other:02X}");
            }
        }
    }
    out
}

/// How to reach a control plane.
#[derive(Clone, Default)]
pub(crate) struct Options {
    /// Its URL.
    pub(crate) api: String,
    /// Sent with every call.
    pub(crate) token: Option<String>,
    /// Authorities of its certificate. Default: the system's.
    pub(crate) ca: Option<PathBuf>,
    /// The certificate to show, and its key.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

/// A client of one control plane.
pub(crate) struct Client {
    base: String,
    authorization: Option<HeaderValue>,
    pool: Pool<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

fn tls(options: &Options) -> Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    match &options.ca {
        Some(file) => {
            let name = || format!("--ca {}", file.display());
            for der in CertificateDer::pem_file_iter(file).with_context(name)? {
                roots.add(der.with_context(name)?).with_context(name)?;
            }
            anyhow::ensure!(!roots.is_empty(), "{} holds no certificate", name());
        }
        None if options.api.starts_with("https:") => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        None => {}
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let Some((certificate, key)) = &options.identity else { return Ok(builder.with_no_client_auth()) };
    let name = || format!("--cert {}", certificate.display());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate).with_context(name)?.collect();
    let private = PrivateKeyDer::from_pem_file(key).with_context(|| format!("--key {}", key.display()))?;
    builder.with_client_auth_cert(chain.with_context(name)?, private).with_context(name)
}

impl Client {
    pub(crate) fn new(options: &Options) -> Result<Self> {
        let base = &options.api;
        let uri: http::Uri = base.parse().with_context(|| format!("--api {base}"))?;
        anyhow::ensure!(
            matches!(uri.scheme_str(), Some("http" | "https")),
            "--api {base}: expected http:// or https://"
        );
        let authorization = match options.token.as_deref().map(str::trim).filter(|t| !t.is_empty()) {
            Some(token) => {
                let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                    .map_err(|_| anyhow::anyhow!("--token holds what a header cannot carry"))?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        let https = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls(options)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let pool = Pool::builder(TokioExecutor::new()).build(https);
        Ok(Self { base: base.trim_end_matches('/').to_owned(), authorization, pool })
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        json(&self.send("GET", path, Bytes::new()).await?)
    }

    pub(crate) async fn text(&self, path: &str) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.send("GET", path, Bytes::new()).await?).into_owned())
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Result<Value> {
        json(&self.send("POST", path, body.to_owned().into()).await?)
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Result<Value> {
        json(&self.send("PUT", path, body.to_string().into()).await?)
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<Value> {
        json(&self.send("DELETE", path, Bytes::new()).await?)
    }

    async fn send(&self, method: &str, path: &str, body: Bytes) -> Result<Bytes> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(value) = &self.authorization {
            request = request.header(AUTHORIZATION, value);
        }
        let request =
            request.body(Full::new(body)).context("--api or an argument cannot be part of a URL")?;
        let exchange = async {
            let (head, body) = self.pool.request(request).await?.into_parts();
            Ok::<_, anyhow::Error>((head.status, body.collect().await?.to_bytes()))
        };
        let (status, body) = tokio::time::timeout(DEADLINE, exchange)
            .await
            .with_context(|| format!("no answer from {} within {DEADLINE:?}", self.base))?
            .with_context(|| format!("control plane at {} is not reachable (--api)", self.base))?;
        if status.is_success() {
            return Ok(body);
        }
        Err(Refused { status, reason: reason(status, &body) }.into())
    }
}

fn json(body: &[u8]) -> Result<Value> {
    serde_json::from_slice(body).context("the answer is not JSON: is --api a Portolan control plane?")
}

/// What a refusal says: its problems, one a line, or its text.
fn reason(status: StatusCode, body: &[u8]) -> String {
    let Ok(told) = serde_json::from_slice::<Value>(body) else {
        return format!("{status}: {}", String::from_utf8_lossy(body).trim());
    };
    let lines: Vec<String> = crate::show::problem_lines(&told);
    match (lines.is_empty(), told["error"].as_str()) {
        (false, _) => format!("refused\n  {}", lines.join("\n  ")),
        (true, Some(error)) => error.to_owned(),
        (true, None) => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_lists_every_problem_on_a_line() {
        let body = br#"{"error": "refused", "problems": [
            {"object": "Route/shop", "path": "spec.rules[0]", "message": "no backend", "severity": "ERROR"},
            {"path": "name", "message": "is empty"}]}"#;
        let told = reason(StatusCode::UNPROCESSABLE_ENTITY, body);
        assert_eq!(told, "refused\n  Route/shop: spec.rules[0]: no backend\n  name: is empty");
        assert_eq!(reason(StatusCode::BAD_GATEWAY, b"oops\n"), "502 Bad Gateway: oops");
    }

    #[test]
    fn ids_with_colons_and_slashes_stay_one_path_segment() {
        assert_eq!(escape("[::1]:80/a"), "%5B%3A%3A1%5D%3A80%2Fa");
    }
}
