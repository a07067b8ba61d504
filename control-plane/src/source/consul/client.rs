//! A thin client of Consul's HTTP API: blocking queries, the KV store, the catalog and the agent.
//!
//! Ours because no published crate has the index, the token header, TLS and the KV store together
//! (`ARCHITECTURE.md`, Decisions). Every call has a deadline; every answer a size limit.

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::{Client as Pool, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Largest answer taken; 200 instances of a service are about 270 KB.
const MAX_ANSWER: usize = 64 << 20;
/// Deadline of a call that does not block.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long a blocking query may be held; Consul adds up to a sixteenth.
pub(crate) const WAIT: Duration = Duration::from_secs(60);
/// Escaped in a path segment: all that RFC 3986 does not leave alone.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// As [`SEGMENT`], with `/` left alone: KV keys.
const KEY: &AsciiSet = &SEGMENT.remove(b'/');

/// Where Consul is and how to speak with it.
#[derive(Clone, Debug)]
pub struct Options {
    /// `http://host:port` or `https://host:port`.
    pub url: Uri,
    /// ACL token.
    pub token: Option<Token>,
    /// PEM file with the authorities to trust with https; none: the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM files with the certificate to show, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Another datacenter than the agent's own.
    pub datacenter: Option<String>,
}

/// An ACL token; never printed.
#[derive(Clone)]
pub struct Token(HeaderValue);

impl Token {
    /// Takes a token.
    ///
    /// # Errors
    /// It cannot be the value of a header.
    pub fn new(text: &str) -> Result<Self, Error> {
        let mut value = HeaderValue::from_str(text).map_err(|_| Error::Token)?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The token has characters that a header cannot carry.
    #[error("consul token is not a valid header value")]
    Token,
    /// The authorities cannot be read.
    #[error("consul authorities: {0}")]
    Authorities(String),
    /// The certificate to show cannot be read.
    #[error("consul client certificate: {0}")]
    Identity(String),
    /// No connection, or it broke.
    #[error("consul is not reachable at {url}")]
    Unreachable {
        /// The address tried.
        url: String,
        /// What the connection said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("consul did not answer {path} within {deadline:?}")]
    Deadline {
        /// What was asked.
        path: String,
        /// How long it had.
        deadline: Duration,
    },
    /// Consul refused.
    #[error("consul answered {path} with {status}: {body}")]
    Refused {
        /// What was asked.
        path: String,
        /// Its status.
        status: StatusCode,
        /// Its reason, shortened.
        body: String,
    },
    /// The answer is not what the API promises.
    #[error("consul's answer to {path} is not understood")]
    Answer {
        /// What was asked.
        path: String,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// An answer with the index that a blocking query goes on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Indexed<T> {
    /// `X-Consul-Index`; 0 when absent.
    pub index: u64,
    /// The answer.
    pub value: T,
}

/// The index to ask with next: Consul's rule is to start over when it went backwards, and never to use 0.
pub fn next_index(last: u64, answered: u64) -> u64 {
    if answered < last { 0 } else { answered.max(1) }
}

/// One key of the KV store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The whole key.
    pub key: String,
    /// Its bytes.
    pub value: Bytes,
    /// Changes with every write; 0 in a compare-and-set means "must not exist".
    pub modify_index: u64,
}

/// A write of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The whole key.
    pub key: String,
    /// Its new bytes; `None` deletes it.
    pub value: Option<Bytes>,
    /// Only if its `modify_index` is this; 0: only if it does not exist. `None`: in any case.
    pub expected: Option<u64>,
}

impl Operation {
    fn to_json(&self) -> serde_json::Value {
        let verb = match (&self.value, self.expected) {
            (Some(_), None) => "set",
            (Some(_), Some(_)) => "cas",
            (None, None) => "delete",
            (None, Some(_)) => "delete-cas",
        };
        let value = self.value.as_ref().map(|v| base64::engine::general_purpose::STANDARD.encode(v));
        serde_json::json!({"KV": {"Verb": verb, "Key": self.key, "Value": value, "Index": self.expected.unwrap_or(0)}})
    }
}

/// An instance as `/v1/health/service` tells it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ServiceEntry {
    /// The node it runs on.
    pub node: NodeEntry,
    /// The service itself.
    pub service: AgentService,
    /// Node and service checks.
    #[serde(default)]
    pub checks: Vec<Check>,
}

/// A node of the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NodeEntry {
    /// Its name.
    pub node: String,
    /// Its address, for services without one of their own.
    pub address: String,
    /// Its datacenter.
    #[serde(default)]
    pub datacenter: Option<String>,
}

/// A service instance.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AgentService {
    /// Unique on its agent.
    #[serde(rename = "ID")]
    pub id: String,
    /// Own address; empty: the node's.
    #[serde(default)]
    pub address: String,
    /// Port.
    pub port: u32,
    /// Tags.
    #[serde(default, deserialize_with = "null_as_default")]
    pub tags: Vec<String>,
    /// Key-value labels.
    #[serde(default, deserialize_with = "null_as_default")]
    pub meta: BTreeMap<String, String>,
    /// Weights by state.
    #[serde(default)]
    pub weights: Option<Weights>,
}

/// Weights by state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Weights {
    /// All checks pass.
    pub passing: u32,
    /// A check warns.
    pub warning: u32,
}

/// A health check.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Check {
    /// `passing`, `warning`, `critical` or `maintenance`.
    pub status: String,
}

/// What `/v1/agent/service/register` takes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Registration {
    /// Service.
    pub name: String,
    /// Instance.
    #[serde(rename = "ID")]
    pub id: String,
    /// Address.
    pub address: String,
    /// Port.
    pub port: u16,
    /// Labels.
    pub meta: BTreeMap<String, String>,
    /// Weights.
    pub weights: RegistrationWeights,
    /// The TTL check, when the registration must be renewed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<TtlCheck>,
}

/// Weights in a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RegistrationWeights {
    /// Weight while passing.
    pub passing: u32,
    /// Weight while warning.
    pub warning: u32,
}

/// A check that fails unless renewed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct TtlCheck {
    /// Its id.
    #[serde(rename = "CheckID")]
    pub check_id: String,
    /// Time to live, as `10s`.
    #[serde(rename = "TTL")]
    pub ttl: String,
    /// State until the first renewal.
    pub status: &'static str,
    /// Time in the failed state after which Consul forgets the instance, as `60s`.
    pub deregister_critical_service_after: String,
}

/// Clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    pool: Pool<HttpsConnector<HttpConnector>, Full<Bytes>>,
    options: Arc<Options>,
}

impl Client {
    /// Makes a client; connects when first used.
    ///
    /// # Errors
    /// The authorities to trust cannot be read.
    pub fn new(options: Options) -> Result<Self, Error> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(DEADLINE));
        let https = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls(&options)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let pool = Pool::builder(TokioExecutor::new()).build(https);
        Ok(Self { pool, options: Arc::new(options) })
    }

    /// Names of all services with their tags; blocks while nothing changed since `index` (0: answers at once).
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn services(&self, index: u64) -> Result<Indexed<BTreeMap<String, Vec<String>>>, Error> {
        self.query("/v1/catalog/services", index).await
    }

    /// All instances of a service, failing ones too; blocks as [`Client::services`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn instances(&self, service: &str, index: u64) -> Result<Indexed<Vec<ServiceEntry>>, Error> {
        let path = format!("/v1/health/service/{}", utf8_percent_encode(service, SEGMENT));
        self.query(&path, index).await
    }

    /// All keys below `prefix`; blocks as [`Client::services`]. None is not an error.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn keys_below(&self, prefix: &str, index: u64) -> Result<Indexed<Vec<Pair>>, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Raw {
            key: String,
            value: Option<String>,
            modify_index: u64,
        }
        let path = format!("/v1/kv/{}", utf8_percent_encode(prefix, KEY));
        let answer = self.blocking(&path, "&recurse", index).await?;
        let index = answer.index;
        // No key below the prefix is 404, with an index to block on all the same.
        let raw: Vec<Raw> = match answer.status {
            StatusCode::NOT_FOUND => Vec::new(),
            _ => decode(&path, &answer.success(&path)?.body)?,
        };
        let pair = |pair: Raw| {
            let value = base64::engine::general_purpose::STANDARD
                .decode(pair.value.unwrap_or_default())
                .map_err(|source| Error::Answer { path: path.clone(), source: source.into() })?;
            Ok(Pair { key: pair.key, value: value.into(), modify_index: pair.modify_index })
        };
        let value = raw.into_iter().map(pair).collect::<Result<_, Error>>()?;
        Ok(Indexed { index, value })
    }

    /// Names of all keys below `prefix`, as of now. None is not an error.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn names_below(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let path = format!("/v1/kv/{}", utf8_percent_encode(prefix, KEY));
        let answer = self.blocking(&path, "&keys", 0).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(Vec::new()),
            _ => decode(&path, &answer.success(&path)?.body),
        }
    }

    /// Applies all operations (64 at most) or none. Answers the keys' new `modify_index`, 0 for deleted ones; or
    /// the position of an operation whose condition did not hold.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn transact(&self, operations: &[Operation]) -> Result<Result<Vec<u64>, usize>, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Outcome {
            #[serde(default, deserialize_with = "null_as_default")]
            results: Vec<Done>,
            #[serde(default, deserialize_with = "null_as_default")]
            errors: Vec<Failed>,
        }
        #[derive(Deserialize)]
        struct Done {
            #[serde(rename = "KV")]
            kv: DoneKey,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct DoneKey {
            key: String,
            modify_index: u64,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Failed {
            op_index: usize,
        }
        let path = "/v1/txn";
        let body: Vec<_> = operations.iter().map(Operation::to_json).collect();
        let body = serde_json::Value::from(body).to_string().into();
        let answer = self.call(Method::PUT, path, "", body, DEADLINE).await?;
        if answer.status == StatusCode::CONFLICT {
            let outcome: Outcome = decode(path, &answer.body)?;
            return Ok(Err(outcome.errors.first().map_or(0, |e| e.op_index)));
        }
        let outcome: Outcome = decode(path, &answer.success(path)?.body)?;
        let index = |o: &Operation| {
            let done = outcome.results.iter().find(|d| d.kv.key == o.key && o.value.is_some());
            done.map_or(0, |d| d.kv.modify_index)
        };
        Ok(Ok(operations.iter().map(index).collect()))
    }

    /// Registers an instance on the agent.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn register(&self, registration: &Registration) -> Result<(), Error> {
        let path = "/v1/agent/service/register";
        let body = serde_json::to_vec(registration)
            .map_err(|source| Error::Answer { path: path.to_owned(), source: source.into() })?;
        self.call(Method::PUT, path, "", body.into(), DEADLINE).await?.success(path).map(drop)
    }

    /// Removes an instance from the agent.
    ///
    /// # Errors
    /// See [`Error`]; an unknown instance is `Refused` with 404.
    pub async fn deregister(&self, id: &str) -> Result<(), Error> {
        // Consul before 1.11 answers 200 for an unknown one.
        let path = format!("/v1/agent/service/{}", utf8_percent_encode(id, SEGMENT));
        self.call(Method::GET, &path, "", Bytes::new(), DEADLINE).await?.success(&path)?;
        let path = format!("/v1/agent/service/deregister/{}", utf8_percent_encode(id, SEGMENT));
        self.call(Method::PUT, &path, "", Bytes::new(), DEADLINE).await?.success(&path).map(drop)
    }

    /// Renews a TTL check.
    ///
    /// # Errors
    /// See [`Error`]; an unknown check is `Refused` with 404 (500 before Consul 1.11).
    pub async fn renew(&self, check_id: &str) -> Result<(), Error> {
        let path = format!("/v1/agent/check/pass/{}", utf8_percent_encode(check_id, SEGMENT));
        self.call(Method::PUT, &path, "", Bytes::new(), DEADLINE).await?.success(&path).map(drop)
    }

    async fn query<T: DeserializeOwned>(&self, path: &str, index: u64) -> Result<Indexed<T>, Error> {
        let answer = self.blocking(path, "", index).await?.success(path)?;
        Ok(Indexed { index: answer.index, value: decode(path, &answer.body)? })
    }

    async fn blocking(&self, path: &str, query: &str, index: u64) -> Result<Answer, Error> {
        if index == 0 {
            return self.call(Method::GET, path, query, Bytes::new(), DEADLINE).await;
        }
        let query = format!("{query}&index={index}&wait={}s", WAIT.as_secs());
        self.call(Method::GET, path, &query, Bytes::new(), WAIT + WAIT / 16 + DEADLINE).await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        query: &str,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Answer, Error> {
        let unreachable = |source: Box<dyn std::error::Error + Send + Sync>| Error::Unreachable {
            url: self.options.url.to_string(),
            source,
        };
        let base = self.options.url.to_string();
        let datacenter =
            self.options.datacenter.as_deref().map(|dc| format!("&dc={}", utf8_percent_encode(dc, SEGMENT)));
        let uri = format!("{}{path}?{}{query}", base.trim_end_matches('/'), datacenter.unwrap_or_default());
        let mut request = Request::builder().method(method).uri(uri.replace("?&", "?"));
        if let Some(token) = &self.options.token {
            request = request.header("x-consul-token", token.0.clone());
        }
        let request = request.body(Full::new(body)).map_err(|e| unreachable(e.into()))?;
        let exchange = async {
            let (head, body) =
                self.pool.request(request).await.map_err(|e| unreachable(e.into()))?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(unreachable)?.to_bytes();
            let index = head.headers.get("x-consul-index").and_then(|v| v.to_str().ok()?.parse().ok());
            Ok(Answer { status: head.status, index: index.unwrap_or(0), body })
        };
        tokio::time::timeout(deadline, exchange)
            .await
            .map_err(|_| Error::Deadline { path: path.to_owned(), deadline })?
    }
}

struct Answer {
    status: StatusCode,
    index: u64,
    body: Bytes,
}

impl Answer {
    fn success(self, path: &str) -> Result<Self, Error> {
        if self.status.is_success() {
            return Ok(self);
        }
        let text = String::from_utf8_lossy(&self.body);
        let body = text.trim().chars().take(200).collect();
        Err(Error::Refused { path: path.to_owned(), status: self.status, body })
    }
}

fn decode<T: DeserializeOwned>(path: &str, body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body)
        .map_err(|source| Error::Answer { path: path.to_owned(), source: source.into() })
}

fn tls(options: &Options) -> Result<rustls::ClientConfig, Error> {
    use rustls_pki_types::{CertificateDer, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    if let Some(file) = &options.ca_file {
        let fail = |e: &dyn std::fmt::Display| Error::Authorities(format!("{}: {e}", file.display()));
        for cert in CertificateDer::pem_file_iter(file).map_err(|e| fail(&e))? {
            roots.add(cert.map_err(|e| fail(&e))?).map_err(|e| fail(&e))?;
        }
        if roots.is_empty() {
            return Err(fail(&"holds no certificate"));
        }
    } else if options.url.scheme_str() == Some("https") {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::Authorities(e.to_string()))?
        .with_root_certificates(roots);
    let Some((certificate, key)) = &options.identity else { return Ok(builder.with_no_client_auth()) };
    let fail =
        |path: &PathBuf, e: &dyn std::fmt::Display| Error::Identity(format!("{}: {e}", path.display()));
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(certificate).map_err(|e| fail(certificate, &e))?.collect();
    let chain = chain.map_err(|e| fail(certificate, &e))?;
    let private = rustls_pki_types::PrivateKeyDer::from_pem_file(key).map_err(|e| fail(key, &e))?;
    builder.with_client_auth_cert(chain, private).map_err(|e| fail(certificate, &e))
}

/// Go writes an empty list or map as `null`.
fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_goes_backwards_starts_over() {
        assert_eq!(next_index(0, 7), 7);
        assert_eq!(next_index(7, 9), 9);
        assert_eq!(next_index(9, 3), 0, "the state was restored from a snapshot or the server replaced");
        assert_eq!(next_index(0, 0), 1, "0 would not block");
    }

    #[test]
    fn a_token_is_never_printed() {
        let token = Token::new("c0ffee").unwrap();
        assert!(!format!("{token:?}").contains("c0ffee"));
    }

    #[test]
    fn go_nulls_are_empty() {
        let service: AgentService =
            serde_json::from_str(r#"{"ID": "a", "Address": "", "Port": 80, "Tags": null, "Meta": null}"#)
                .unwrap();
        assert!(service.tags.is_empty() && service.meta.is_empty());
    }
}
