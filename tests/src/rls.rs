//! A rate limit service that answers as the descriptor entry `do` says, and keeps what it was asked.
//!
//! | `do` | it |
//! |---|---|
//! | `over` | says OVER_LIMIT, with two limits |
//! | `body` | says OVER_LIMIT, with a body, its content type and a header |
//! | `headers` | says OK, with headers for both ways and metadata |
//! | `unknown` | says UNKNOWN |
//! | `fail` | fails with UNAVAILABLE |
//! | `hang` | never answers |
//! | anything else, or none | says OK, with a limit |

use anyhow::Result;
use parking_lot::Mutex;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use xds_types::envoy::config::core::v3::HeaderValue;
use xds_types::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use xds_types::envoy::service::ratelimit::v3::rate_limit_response::rate_limit::Unit;
use xds_types::envoy::service::ratelimit::v3::rate_limit_response::{Code, DescriptorStatus, RateLimit};
use xds_types::envoy::service::ratelimit::v3::rate_limit_service_server::{
    RateLimitService, RateLimitServiceServer,
};
use xds_types::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use xds_types::google::protobuf::value::Kind;
use xds_types::google::protobuf::{Duration, Struct, Value};

/// A running service; stops when dropped.
#[derive(Debug)]
pub struct Rls {
    /// Where it listens.
    pub addr: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    _server: JoinSet<()>,
}

impl Rls {
    /// Starts one on a port of its own.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start() -> Result<Self> {
        Self::bind((Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// Starts one on `addr`.
    ///
    /// # Errors
    /// The address is taken.
    pub async fn bind(addr: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let service = RateLimitServiceServer::new(Scripted(Arc::clone(&seen)));
        let mut server = JoinSet::new();
        server.spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let _ = Server::builder().add_service(service).serve_with_incoming(incoming).await;
        });
        Ok(Self { addr, seen, _server: server })
    }

    /// What it was asked since it was last looked at, a line for each question.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock())
    }
}

struct Scripted(Arc<Mutex<Vec<String>>>);

#[tonic::async_trait]
impl RateLimitService for Scripted {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let request = request.into_inner();
        self.0.lock().push(told(&request));
        let entries = request.descriptors.iter().flat_map(|descriptor| &descriptor.entries);
        let script = entries.into_iter().find(|entry| entry.key == "do").map(|entry| entry.value.as_str());
        let answer = match script.unwrap_or_default() {
            "hang" => std::future::pending().await,
            "fail" => return Err(Status::unavailable("not now")),
            "over" => RateLimitResponse {
                statuses: vec![
                    status(Code::OverLimit, (10, Unit::Minute, "per-user"), 0, 42),
                    status(Code::Ok, (1000, Unit::Hour, ""), 7, 1800),
                ],
                ..overall(Code::OverLimit)
            },
            "body" => RateLimitResponse {
                raw_body: b"{\"slow\": \"down\"}".to_vec(),
                response_headers_to_add: vec![
                    header("content-type", "application/json"),
                    header("X-Rls", "over"),
                ],
                ..overall(Code::OverLimit)
            },
            "headers" => RateLimitResponse {
                response_headers_to_add: vec![header("x-rls", "1"), header("x-rls", "2")],
                request_headers_to_add: vec![header("x-rls-said", "ok")],
                dynamic_metadata: Some(metadata()),
                ..overall(Code::Ok)
            },
            "unknown" => overall(Code::Unknown),
            _ => RateLimitResponse {
                statuses: vec![status(Code::Ok, (10, Unit::Second, "all"), 9, 1)],
                ..overall(Code::Ok)
            },
        };
        Ok(Response::new(answer))
    }
}

fn overall(code: Code) -> RateLimitResponse {
    RateLimitResponse { overall_code: code.into(), ..RateLimitResponse::default() }
}

fn status(code: Code, limit: (u32, Unit, &str), limit_remaining: u32, seconds: i64) -> DescriptorStatus {
    let (requests_per_unit, unit, name) = limit;
    DescriptorStatus {
        code: code.into(),
        current_limit: Some(RateLimit { name: name.into(), requests_per_unit, unit: unit.into() }),
        limit_remaining,
        duration_until_reset: Some(Duration { seconds, nanos: 0 }),
        quota: None,
    }
}

fn header(key: &str, value: &str) -> HeaderValue {
    HeaderValue { key: key.into(), value: value.into(), raw_value: Vec::new() }
}

fn metadata() -> Struct {
    let text = Value { kind: Some(Kind::StringValue("gold".into())) };
    let number = Value { kind: Some(Kind::NumberValue(7.0)) };
    Struct { fields: [("tier".to_owned(), text), ("left".to_owned(), number)].into() }
}

/// `domain: [k=v k=v] [..] limit 1/2 hits 3`.
fn told(request: &RateLimitRequest) -> String {
    let mut out = format!("? {}:", request.domain);
    for RateLimitDescriptor { entries, limit, hits_addend, is_negative_hits } in &request.descriptors {
        let entries: Vec<_> = entries.iter().map(|e| format!("{}={}", e.key, e.value)).collect();
        let _ = write!(out, " [{}]", entries.join(" "));
        if let Some(limit) = limit {
            let _ = write!(out, " limit {}/{}", limit.requests_per_unit, limit.unit);
        }
        if let Some(hits) = hits_addend {
            let _ = write!(out, " hits {}{}", if *is_negative_hits { "-" } else { "" }, hits.value);
        }
    }
    if request.hits_addend > 0 {
        let _ = write!(out, " addend {}", request.hits_addend);
    }
    out.push('\n');
    out
}
