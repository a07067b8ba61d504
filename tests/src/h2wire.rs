//! HTTP/2 with nothing added: a client for one exchange, and an origin that records what it sees.

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use parking_lot::Mutex;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Longest wait for a step of an exchange.
const DEADLINE: Duration = Duration::from_secs(20);

/// A request or response as HTTP/2 has it.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// Pseudo-headers, in words.
    pub start: String,
    /// Headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
    /// Trailers.
    pub trailers: HeaderMap,
    /// How the stream ended when it did not end well.
    pub reset: Option<String>,
}

impl Message {
    /// The message as lines, each begun with `mark`, headers sorted by name; a long body as its length.
    pub fn describe(&self, mark: &str) -> String {
        let mut out = format!("{mark} {}\n", self.start);
        let sorted = |headers: &HeaderMap, label: &str| {
            let mut lines: Vec<String> = headers
                .iter()
                .map(|(n, v)| format!("{mark} {label}{n}: {}\n", String::from_utf8_lossy(v.as_bytes())))
                .collect();
            lines.sort();
            lines.concat()
        };
        out += &sorted(&self.headers, "");
        match self.body.len() {
            0 => {}
            1..=200 => {
                let _ = writeln!(out, "{mark} {:?}", String::from_utf8_lossy(&self.body));
            }
            n => {
                let _ = writeln!(out, "{mark} ({n} bytes)");
            }
        }
        out += &sorted(&self.trailers, "trailer ");
        if let Some(reset) = &self.reset {
            let _ = writeln!(out, "{mark} reset: {reset}");
        }
        out
    }
}

/// Sends one request on a connection of its own and reads the answer.
///
/// # Errors
/// No connection, or silence. A stream reset is an answer.
pub async fn exchange(
    addr: SocketAddr,
    request: Request<()>,
    body: &[u8],
    trailers: Option<HeaderMap>,
) -> Result<Message> {
    let stream = TcpStream::connect(addr).await?;
    let (send, connection) = h2::client::handshake(stream).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let _ = connection.await;
    });
    ask(send, request, body, trailers).await
}

/// Sends one request on a connection that is there and reads the answer.
///
/// # Errors
/// The connection takes no requests, or silence. A stream reset is an answer.
pub async fn ask(
    send: h2::client::SendRequest<Bytes>,
    request: Request<()>,
    body: &[u8],
    trailers: Option<HeaderMap>,
) -> Result<Message> {
    let mut tasks = JoinSet::new();
    let mut send = send.ready().await?;
    let ends = body.is_empty() && trailers.is_none();
    let (response, mut upload) = send.send_request(request, ends)?;
    if !ends {
        let last = trailers.is_none();
        let body = Bytes::copy_from_slice(body);
        tasks.spawn(async move {
            // An answer may come, and the stream end, before the body is through.
            let _ = push(&mut upload, body, last).await;
            if let Some(trailers) = trailers {
                let _ = upload.send_trailers(trailers);
            }
        });
    }
    let mut message = Message::default();
    match timeout(DEADLINE, response).await.context("no answer")? {
        Ok(response) => {
            let (head, mut body) = response.into_parts();
            message.start = format!(":status {}", head.status.as_u16());
            message.headers = head.headers;
            read(&mut body, &mut message).await?;
        }
        Err(error) => {
            message.reset = Some(error.reason().map_or_else(|| error.to_string(), |r| r.to_string()))
        }
    }
    Ok(message)
}

pub(crate) async fn push(stream: &mut h2::SendStream<Bytes>, mut body: Bytes, last: bool) -> Result<()> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.context("closed")??;
        let part = body.split_to(room.min(body.len()));
        stream.send_data(part, last && body.is_empty())?;
    }
    Ok(())
}

pub(crate) async fn read(body: &mut h2::RecvStream, message: &mut Message) -> Result<()> {
    while let Some(chunk) = timeout(DEADLINE, body.data()).await.context("peer is silent")? {
        match chunk {
            Ok(chunk) => {
                let _ = body.flow_control().release_capacity(chunk.len());
                message.body.extend_from_slice(&chunk);
            }
            Err(error) => {
                message.reset = Some(error.reason().map_or_else(|| error.to_string(), |r| r.to_string()));
                return Ok(());
            }
        }
    }
    if let Some(trailers) = timeout(DEADLINE, body.trailers()).await.context("peer is silent")?? {
        message.trailers = trailers;
    }
    Ok(())
}

/// An HTTP/2 origin: answers the body it got, with trailers when `x-do` says `trailers`, trailers only when it says
/// `trailers-only`, a reset when it says `reset`.
#[derive(Debug)]
pub struct Origin {
    /// Where it listens.
    pub addr: SocketAddr,
    seen: Arc<Mutex<Vec<Message>>>,
    _accept: JoinSet<()>,
}

impl Origin {
    /// Starts one on a port of its own.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let seen: Arc<Mutex<Vec<Message>>> = Arc::default();
        let mut accept = JoinSet::new();
        let to = Arc::clone(&seen);
        accept.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let seen = Arc::clone(&to);
                connections.spawn(async move {
                    // A connection that breaks is the proxy's doing, and shows in what the client gets.
                    let _ = serve(stream, seen).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { addr, seen, _accept: accept })
    }

    /// Requests that came since the last call, whole ones only.
    pub fn take(&self) -> Vec<Message> {
        std::mem::take(&mut self.seen.lock())
    }
}

async fn serve(stream: TcpStream, seen: Arc<Mutex<Vec<Message>>>) -> Result<()> {
    let mut connection = h2::server::handshake(stream).await?;
    let mut streams = JoinSet::new();
    while let Some(request) = connection.accept().await {
        let (request, respond) = request?;
        let seen = Arc::clone(&seen);
        streams.spawn(async move {
            let _ = answer(request, respond, &seen).await;
        });
        while streams.try_join_next().is_some() {}
    }
    Ok(())
}

async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    seen: &Mutex<Vec<Message>>,
) -> Result<()> {
    let (head, mut body) = request.into_parts();
    let script = head.headers.get("x-do").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let scheme = head.uri.scheme_str().unwrap_or("-");
    let authority = head.uri.authority().map_or("-", |a| a.as_str());
    let path = head.uri.path_and_query().map_or("-", |p| p.as_str());
    let mut message = Message {
        start: format!(":method {} :scheme {scheme} :authority {authority} :path {path}", head.method),
        headers: head.headers,
        ..Message::default()
    };
    read(&mut body, &mut message).await?;
    let body = Bytes::from(message.body.clone());
    seen.lock().push(message);
    if script == "reset" {
        respond.send_reset(h2::Reason::CANCEL);
        return Ok(());
    }
    let trailers = script.starts_with("trailers");
    let only = script == "trailers-only";
    let response = Response::builder().header("content-type", "application/grpc");
    let response =
        if only { response.header("grpc-status", "7").header("grpc-message", "no") } else { response };
    let ends = only || (body.is_empty() && !trailers);
    let mut stream = respond.send_response(response.body(())?, ends)?;
    if !ends {
        push(&mut stream, body, !trailers).await?;
        if trailers {
            let mut map = HeaderMap::new();
            map.insert("grpc-status", "0".parse()?);
            map.insert("x-sum", "7".parse()?);
            stream.send_trailers(map)?;
        }
    }
    Ok(())
}
