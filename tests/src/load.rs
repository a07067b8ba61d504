//! Many clients at once, each told apart: what every single request was answered.

use crate::h2wire;
use crate::wire::{Role, Wire};
use anyhow::{Context, Result};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Streams of a client's HTTP/2 connection at a time.
const STREAMS: usize = 8;

/// What clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speak {
    /// HTTP/1.1, connections kept.
    Http1,
    /// HTTP/2, connections shared.
    Http2,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Goes as `x-id`, so that the origin can tell what it gets twice.
    pub id: String,
    /// Method.
    pub method: &'static str,
    /// Path.
    pub path: String,
    /// Goes as `x-do`.
    pub script: String,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
    /// Bytes of the body.
    pub body: usize,
}

impl Ask {
    /// A GET.
    pub fn get(id: impl Into<String>, path: &str, script: &str) -> Self {
        Self {
            id: id.into(),
            method: "GET",
            path: path.to_owned(),
            script: script.to_owned(),
            headers: Vec::new(),
            body: 0,
        }
    }

    /// With another method and a body of so many bytes.
    pub fn sending(mut self, method: &'static str, body: usize) -> Self {
        self.method = method;
        self.body = body;
        self
    }

    /// With another header.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The request as HTTP/1.1 has it.
    pub fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\nhost: test\r\n", self.method, self.path);
        let _ = write!(text, "x-id: {}\r\nx-do: {}\r\n", self.id, self.script);
        for (name, value) in &self.headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        if self.body > 0 || self.method == "POST" {
            let _ = write!(text, "content-length: {}\r\n", self.body);
        }
        [text.as_bytes(), b"\r\n", "b".repeat(self.body).as_bytes()].concat()
    }

    /// The head as HTTP/2 has it.
    ///
    /// # Errors
    /// There is no such request.
    pub fn head(&self) -> Result<http::Request<()>> {
        let mut request = http::Request::builder()
            .method(self.method)
            .uri(format!("http://test{}", self.path))
            .header("x-id", &self.id)
            .header("x-do", &self.script);
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        if self.body > 0 {
            request = request.header("content-length", self.body);
        }
        Ok(request.body(())?)
    }
}

/// What came of each request, by its id: `200 ok`, `503 UF why`, `200 (500 bytes) cut`, `closed`, `reset CODE`.
pub type Told = BTreeMap<String, String>;

/// How often each answer came.
pub fn tally(told: &Told) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for verdict in told.values() {
        *tally.entry(verdict.clone()).or_default() += 1;
    }
    tally
}

/// Asks all of it by so many clients at a time; returns once everything was answered.
pub async fn load(addr: SocketAddr, speak: Speak, clients: usize, asks: Vec<Ask>) -> Told {
    let asks = Arc::new(Mutex::new(VecDeque::from(asks)));
    let told = Arc::new(Mutex::new(Told::new()));
    let mut tasks = JoinSet::new();
    let connections = if speak == Speak::Http1 { clients } else { clients.div_ceil(STREAMS) };
    for _ in 0..connections {
        let (asks, told) = (Arc::clone(&asks), Arc::clone(&told));
        tasks.spawn(async move {
            match speak {
                Speak::Http1 => one_by_one(addr, &asks, &told).await,
                Speak::Http2 => at_once(addr, &asks, &told).await,
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("a client panicked");
    }
    std::mem::take(&mut *told.lock())
}

async fn one_by_one(addr: SocketAddr, asks: &Mutex<VecDeque<Ask>>, told: &Mutex<Told>) {
    let mut kept = None;
    loop {
        let next = asks.lock().pop_front();
        let Some(ask) = next else { return };
        let verdict = match ask_h1(addr, &mut kept, &ask).await {
            Ok(verdict) => verdict,
            Err(error) => {
                kept = None;
                format!("failed: {error:#}")
            }
        };
        told.lock().insert(ask.id, verdict);
    }
}

async fn ask_h1(addr: SocketAddr, kept: &mut Option<Wire>, ask: &Ask) -> Result<String> {
    let mut wire = match kept.take() {
        Some(wire) => wire,
        None => Wire::connect(addr).await?,
    };
    // Whoever is answered early may not be read to the end.
    let _ = wire.send(&ask.bytes()).await;
    let role = if ask.method == "HEAD" { Role::ResponseToHead } else { Role::Response };
    let mut interim = 0;
    loop {
        let Some(answer) = wire.message(role).await? else { return Ok("closed".into()) };
        if answer.status() / 100 == 1 {
            interim += 1;
            continue;
        }
        let close = answer.header("connection").is_some_and(|c| c.eq_ignore_ascii_case("close"));
        let whole = !answer.truncated;
        let open_ended =
            answer.header("content-length").is_none() && answer.header("transfer-encoding").is_none();
        if whole && !close && !open_ended {
            *kept = Some(wire);
        }
        let mut text = verdict(answer.status(), &answer.body);
        if !whole {
            text += " cut";
        }
        if interim > 0 {
            let _ = write!(text, " after {interim} interim");
        }
        return Ok(text);
    }
}

/// HTTP/1.1 clients that keep their connections from one round to the next.
#[derive(Debug)]
pub struct Clients {
    addr: SocketAddr,
    kept: Vec<Option<Wire>>,
}

impl Clients {
    /// So many that have not connected yet.
    pub fn new(addr: SocketAddr, count: usize) -> Self {
        Self { addr, kept: (0..count).map(|_| None).collect() }
    }

    /// Each asks one thing, all at the same time.
    pub async fn round(&mut self, asks: Vec<Ask>) -> Told {
        let addr = self.addr;
        let all = self.kept.iter_mut().zip(asks).map(async |(kept, ask)| {
            let verdict = ask_h1(addr, kept, &ask).await;
            (ask.id, verdict.unwrap_or_else(|error| format!("failed: {error:#}")))
        });
        futures_util::future::join_all(all).await.into_iter().collect()
    }
}

async fn at_once(addr: SocketAddr, asks: &Mutex<VecDeque<Ask>>, told: &Mutex<Told>) {
    let connected = async {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok::<_, anyhow::Error>(h2::client::handshake(stream).await?)
    };
    let (send, connection) = match connected.await {
        Ok(connected) => connected,
        Err(error) => {
            while let Some(ask) = { asks.lock().pop_front() } {
                told.lock().insert(ask.id, format!("no connection: {error:#}"));
            }
            return;
        }
    };
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        let _ = connection.await;
    });
    let stream = async || {
        while let Some(ask) = { asks.lock().pop_front() } {
            let verdict = match ask_h2(send.clone(), &ask).await {
                Ok(verdict) => verdict,
                Err(error) => format!("failed: {error:#}"),
            };
            told.lock().insert(ask.id, verdict);
        }
    };
    futures_util::future::join_all((0..STREAMS).map(|_| stream())).await;
}

async fn ask_h2(send: h2::client::SendRequest<Bytes>, ask: &Ask) -> Result<String> {
    let body = "b".repeat(ask.body);
    let message = h2wire::ask(send, ask.head()?, body.as_bytes(), None).await.context("ask")?;
    let Some(status) = message.start.strip_prefix(":status ") else {
        return Ok(format!("reset {}", message.reset.unwrap_or_default()));
    };
    let mut text = verdict(status.parse()?, &message.body);
    if let Some(reset) = message.reset {
        let _ = write!(text, " reset {reset}");
    }
    Ok(text)
}

fn verdict(status: u16, body: &[u8]) -> String {
    if body.len() > 200 || (body.len() > 2 && body.iter().all(|b| *b == b'x')) {
        return format!("{status} ({} bytes)", body.len());
    }
    format!("{status} {}", String::from_utf8_lossy(body)).trim_end().to_owned()
}
