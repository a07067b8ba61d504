//! A plain HTTP client: HTTP/1.1 keep-alive or prior-knowledge HTTP/2.

use anyhow::{Context, Result};
use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::{Client as Pool, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use std::time::Duration;

/// Longest wait for an answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// A pooled client.
#[derive(Clone, Debug)]
pub struct Client(Pool<HttpConnector, Full<Bytes>>);

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// Trailers.
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// It is not JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {}", self.text()))
    }

    /// A header's first value; empty when absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }
}

impl Client {
    /// HTTP/1.1.
    pub fn h1() -> Self {
        Self(Pool::builder(TokioExecutor::new()).build_http())
    }

    /// HTTP/2 without TLS.
    pub fn h2() -> Self {
        Self(Pool::builder(TokioExecutor::new()).http2_only(true).build_http())
    }

    /// `GET url`.
    ///
    /// # Errors
    /// No whole answer within 10 s.
    pub async fn get(&self, url: &str) -> Result<Answer> {
        self.send("GET", url, &[], Bytes::new()).await
    }

    /// Any request.
    ///
    /// # Errors
    /// No whole answer within 10 s.
    pub async fn send(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer> {
        let mut request = http::Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into()))?;
        let answer = async {
            let (head, body) = self.0.request(request).await?.into_parts();
            let body = body.collect().await?;
            Ok::<_, anyhow::Error>(Answer {
                status: head.status.as_u16(),
                headers: head.headers,
                trailers: body.trailers().cloned(),
                body: body.to_bytes(),
            })
        };
        tokio::time::timeout(DEADLINE, answer).await.with_context(|| format!("{method} {url}: no answer"))?
    }
}
