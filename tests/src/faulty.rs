//! An origin that fails as it is told, HTTP/1.1 and HTTP/2 on one port, and remembers every request that reached it.
//!
//! The header `x-do` of a request says what becomes of it, try by try: with `reset|ok` the connection is reset the
//! first time the request's `x-id` comes, and answered the second time; the last try stands for all that follow. A
//! try is a list of steps. All but those that begin with `now` read the request to its end first.
//!
//! | step | does |
//! |---|---|
//! | `ok` | answers 200 with a body of two bytes |
//! | `status:N`, `bytes:N` | answers N; answers 200 with N bytes |
//! | `head:N`, `data:N` | the head of an answer of N bytes; N bytes of it |
//! | `chunked`, `chunk:N`, `end` | an answer without a length, in parts (HTTP/2: a stream without `content-length`) |
//! | `raw:TEXT` | these bytes, in which `_` is a space and `\r`, `\n`, `\0` are what they are elsewhere (HTTP/1) |
//! | `wide:N` | answers 200 with a header of N bytes |
//! | `hints:N`, `continue` | N times 103; 100 |
//! | `gate` | waits until the test lets go |
//! | `hang` | stays silent for as long as the peer is there |
//! | `close`, `reset` | ends the connection |
//! | `last` | the next request on this connection is read, and the connection closed (HTTP/1) |
//! | `rst:CODE` | resets the stream (HTTP/2) |
//! | `goaway:CODE` | GOAWAY, the streams from this one on not processed (HTTP/2) |
//! | `leave` | GOAWAY without an error, the last stream that came being the last (HTTP/2) |
//! | `streams:N` | SETTINGS: no more than N streams at a time from now on (HTTP/2) |
//! | `frame:TYPE` | a frame of five bytes of this type, on this stream (HTTP/2) |

use crate::h2wire;
use crate::wire::{Role, Wire};
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use h2::server::SendResponse;
use http::{Request, Response};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// What HTTP/2 connections begin with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Frames on their way to a peer. A full queue holds up whoever sends.
const FRAMES: usize = 64;
/// The flag of HEADERS that says that nothing follows.
const END_HEADERS: u8 = 4;
/// Bytes of a body that are written at once.
const PART: usize = 64 * 1024;

/// A request that came, as far as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its `x-id`.
    pub id: String,
    /// Its method.
    pub method: String,
    /// Bytes of its body.
    pub body: usize,
    /// All of it came.
    pub whole: bool,
    /// What `x-envoy-attempt-count` said.
    pub attempt: String,
    /// Which connection, counted from 1.
    pub connection: u64,
}

#[derive(Debug)]
struct State {
    seen: Mutex<Vec<Seen>>,
    tries: Mutex<BTreeMap<String, usize>>,
    always: Mutex<Option<String>>,
    check: AtomicU64,
    gate: watch::Sender<bool>,
    connections: AtomicU64,
    open: AtomicU64,
}

/// Counts a connection for as long as it is there.
struct Open(Arc<State>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

/// A running origin.
#[derive(Debug)]
pub struct Faulty {
    /// Where it listens.
    pub addr: SocketAddr,
    state: Arc<State>,
    serving: JoinSet<()>,
}

impl Faulty {
    /// Starts one on a port of its own.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start() -> Result<Self> {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// Starts one there.
    ///
    /// # Errors
    /// The port is taken.
    pub async fn start_at(addr: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let state = Arc::new(State {
            seen: Mutex::default(),
            tries: Mutex::default(),
            always: Mutex::default(),
            check: AtomicU64::new(200),
            gate: watch::Sender::new(false),
            connections: AtomicU64::new(0),
            open: AtomicU64::new(0),
        });
        let addr = listener.local_addr()?;
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, Arc::clone(&state)));
        Ok(Self { addr, state, serving })
    }

    /// Requests that came since the last call; tries count from the beginning again.
    pub fn take(&self) -> Vec<Seen> {
        self.state.tries.lock().clear();
        std::mem::take(&mut self.state.seen.lock())
    }

    /// Requests that came since [`Self::take`].
    pub fn seen(&self) -> usize {
        self.state.seen.lock().len()
    }

    /// Does this with every request from now on, whatever it asks for; or again what it asks for.
    pub fn always(&self, script: Option<&str>) {
        *self.state.always.lock() = script.map(str::to_owned);
    }

    /// Answers health checks, requests whose `x-id` is `check`, with this status from now on; they are not noted.
    pub fn checks(&self, status: u16) {
        self.state.check.store(status.into(), Relaxed);
    }

    /// Connections that came so far.
    pub fn connections(&self) -> u64 {
        self.state.connections.load(Relaxed)
    }

    /// Connections that are open.
    pub fn open(&self) -> u64 {
        self.state.open.load(Relaxed)
    }

    /// Lets go what waits at the gate, or stops what comes there.
    pub fn gate(&self, open: bool) {
        self.state.gate.send_replace(open);
    }

    /// Closes all connections and stops listening.
    pub async fn down(&mut self) {
        self.serving.shutdown().await;
    }

    /// Listens again where it did.
    ///
    /// # Errors
    /// The port was taken meanwhile.
    pub async fn up(&mut self) -> Result<()> {
        let listener = TcpListener::bind(self.addr).await?;
        self.serving.spawn(accept(listener, Arc::clone(&self.state)));
        Ok(())
    }

    /// Closes all connections and goes on listening.
    ///
    /// # Errors
    /// The port was taken meanwhile.
    pub async fn hang_up(&mut self) -> Result<()> {
        self.down().await;
        self.up().await
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let number = state.connections.fetch_add(1, Relaxed) + 1;
        state.open.fetch_add(1, Relaxed);
        let open = Open(Arc::clone(&state));
        connections.spawn(async move {
            // A connection that breaks is what this is for.
            let _ = serve(stream, number, &open.0).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, number: u64, state: &Arc<State>) -> Result<()> {
    let mut first = [0; 3];
    loop {
        match stream.peek(&mut first).await? {
            0 => return Ok(()),
            3.. => break,
            _ => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
    if first == PREFACE[..3] {
        serve_h2(stream, number, state).await
    } else {
        serve_h1(Wire::over(stream), number, state).await
    }
}

impl State {
    /// Takes note of a request. Returns where it stands and what is to be done.
    fn note(&self, seen: Seen, script: &str) -> (usize, String) {
        if seen.id == "check" {
            return (usize::MAX, format!("status:{}", self.check.load(Relaxed)));
        }
        let nth = {
            let mut tries = self.tries.lock();
            let nth = tries.entry(seen.id.clone()).or_default();
            *nth += 1;
            *nth - 1
        };
        let always = self.always.lock().clone();
        let all: Vec<&str> = always.as_deref().unwrap_or(script).split('|').collect();
        let script = all.get(nth).or(all.last()).copied().unwrap_or_default().to_owned();
        let mut seen_all = self.seen.lock();
        seen_all.push(seen);
        (seen_all.len() - 1, script)
    }

    /// How much of a request's body came in the end.
    fn came(&self, at: usize, body: usize, whole: bool) {
        // Nothing is there where the test has taken it meanwhile.
        if let Some(seen) = self.seen.lock().get_mut(at) {
            seen.body = body;
            seen.whole = whole;
        }
    }

    async fn pass_gate(&self) -> Result<()> {
        self.gate.subscribe().wait_for(|open| *open).await?;
        Ok(())
    }
}

fn steps(script: &str) -> impl Iterator<Item = (&str, &str)> {
    script.split_whitespace().map(|step| step.split_once(':').unwrap_or((step, "")))
}

/// So many bytes, a few at a time.
fn parts(size: usize) -> impl Iterator<Item = Bytes> {
    let part = Bytes::from(vec![b'x'; size.min(PART)]);
    (0..size).step_by(PART).map(move |at| part.slice(..(size - at).min(PART)))
}

fn number(text: &str) -> Result<usize> {
    text.parse().with_context(|| format!("number {text:?}"))
}

async fn serve_h1(mut wire: Wire, connection: u64, state: &State) -> Result<()> {
    let mut last = false;
    while let Some(mut request) = wire.head().await? {
        let header = |name| request.header(name).unwrap_or_default().to_owned();
        let seen = Seen {
            id: header("x-id"),
            method: request.start.split(' ').next().unwrap_or_default().to_owned(),
            attempt: header("x-envoy-attempt-count"),
            connection,
            ..Seen::default()
        };
        let script = header("x-do");
        let (at, script) = state.note(seen, &script);
        let now = script.trim_start().starts_with("now");
        if !now {
            let _ = wire.body(&mut request, Role::Request).await;
            state.came(at, request.body.len(), !request.truncated);
            if request.truncated {
                return Ok(());
            }
        }
        if std::mem::take(&mut last) {
            return Ok(());
        }
        if script.trim().is_empty() {
            wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
        }
        for (step, argument) in steps(&script) {
            match step {
                "now" => {}
                "read" => {
                    wire.body(&mut request, Role::Request).await?;
                    state.came(at, request.body.len(), !request.truncated);
                }
                "ok" => wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?,
                "status" => {
                    let head = format!("HTTP/1.1 {argument} Status\r\ncontent-length: 2\r\n\r\nok");
                    wire.send(head.as_bytes()).await?;
                }
                "wide" => {
                    let value = "w".repeat(number(argument)?);
                    let head = format!("HTTP/1.1 200 OK\r\nx-wide: {value}\r\ncontent-length: 2\r\n\r\nok");
                    wire.send(head.as_bytes()).await?;
                }
                "head" => {
                    wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {argument}\r\n\r\n").as_bytes())
                        .await?;
                }
                "bytes" => {
                    let body = "x".repeat(number(argument)?);
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {argument}\r\n\r\n{body}");
                    wire.send(head.as_bytes()).await?;
                }
                "data" => {
                    for part in parts(number(argument)?) {
                        wire.send(&part).await?;
                    }
                }
                "chunked" => wire.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?,
                "chunk" => {
                    let size = number(argument)?;
                    wire.send(format!("{size:x}\r\n{}\r\n", "x".repeat(size)).as_bytes()).await?;
                }
                "end" => wire.send(b"0\r\n\r\n").await?,
                "raw" => {
                    let text = argument
                        .replace('_', " ")
                        .replace("\\0", "\0")
                        .replace("\\r", "\r")
                        .replace("\\n", "\n");
                    wire.send(text.as_bytes()).await?;
                }
                "hints" => {
                    for _ in 0..number(argument)? {
                        wire.send(b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n").await?;
                    }
                }
                "continue" => wire.send(b"HTTP/1.1 100 Continue\r\n\r\n").await?,
                "gate" => state.pass_gate().await?,
                "hang" => {
                    wire.rest_for(Duration::from_secs(60)).await;
                    return Ok(());
                }
                "close" => return Ok(()),
                "reset" => return wire.reset(),
                "last" => last = true,
                other => bail!("no such step over HTTP/1: {other}"),
            }
        }
        if now && !steps(&script).any(|(step, _)| step == "read") {
            let _ = wire.body(&mut request, Role::Request).await;
            state.came(at, request.body.len(), !request.truncated);
        }
    }
    Ok(())
}

/// A frame as it is on the wire.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// One frame off the wire; `None` at the end.
async fn next_frame(from: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let mut frame = vec![0; 9];
    from.read_exact(&mut frame).await.ok()?;
    let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]) as usize;
    frame.resize(9 + length, 0);
    from.read_exact(&mut frame[9..]).await.ok()?;
    Some(frame)
}

/// What goes out to a peer.
enum Out {
    Frame(Vec<u8>),
    Close,
    Reset,
}

/// The way into a peer's connection past the server.
#[derive(Clone)]
struct Inject {
    out: mpsc::Sender<Out>,
    /// Heads and bytes of bodies that the server has sent, by stream.
    sent: Arc<Mutex<BTreeMap<u32, (usize, usize)>>>,
    /// The last stream that came, and the last that is processed once GOAWAY is out.
    last: Arc<Mutex<(u32, Option<u32>)>>,
}

impl Inject {
    /// Sends a frame once the server has sent so much of the stream.
    async fn after(&self, stream: u32, sent: (usize, usize), out: Out) -> Result<()> {
        while self.sent.lock().get(&stream).copied().unwrap_or_default() < sent {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(self.out.send(out).await?)
    }
}

/// Serves HTTP/2: frames go through this function, so that there may be more of them than the server knows of.
async fn serve_h2(stream: TcpStream, number: u64, state: &Arc<State>) -> Result<()> {
    stream.set_nodelay(true)?;
    let (mut from_peer, mut to_peer) = stream.into_split();
    let (near, far) = tokio::io::duplex(1024 * 1024);
    let (mut from_server, mut to_server) = tokio::io::split(far);
    let (out, mut queue) = mpsc::channel(FRAMES);
    let inject = Inject { out: out.clone(), sent: Arc::default(), last: Arc::default() };
    let (end, mut ended) = mpsc::channel::<()>(1);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let _end = end;
        while let Some(out) = queue.recv().await {
            let Out::Frame(frame) = out else {
                if matches!(out, Out::Reset) {
                    let _ = rustix::net::sockopt::set_socket_linger(to_peer.as_ref(), Some(Duration::ZERO));
                }
                return;
            };
            if to_peer.write_all(&frame).await.is_err() {
                return;
            }
        }
    });
    let sent = Arc::clone(&inject.sent);
    tasks.spawn(async move {
        while let Some(frame) = next_frame(&mut from_server).await {
            let stream = u32::from_be_bytes([frame[5], frame[6], frame[7], frame[8]]);
            let (kind, length) = (frame[3], frame.len() - 9);
            if out.send(Out::Frame(frame)).await.is_err() {
                return;
            }
            let mut sent = sent.lock();
            let sent = sent.entry(stream).or_default();
            match kind {
                0 => sent.1 += length,
                1 => sent.0 += 1,
                _ => {}
            }
        }
    });
    tasks.spawn(async move {
        let mut preface = vec![0; PREFACE.len()];
        if from_peer.read_exact(&mut preface).await.is_err() || to_server.write_all(&preface).await.is_err() {
            return;
        }
        let mut own = true;
        while let Some(frame) = next_frame(&mut from_peer).await {
            // The first acknowledgement of SETTINGS is for the server's own; it knows nothing of others.
            let acknowledges = frame[3] == 4 && frame[4] & 1 == 1;
            if acknowledges && !std::mem::take(&mut own) {
                continue;
            }
            if to_server.write_all(&frame).await.is_err() {
                return;
            }
        }
        let _ = to_server.shutdown().await;
    });
    let mut connection = h2::server::Builder::new().handshake::<_, Bytes>(near).await?;
    let mut streams = JoinSet::new();
    loop {
        let request = tokio::select! {
            request = connection.accept() => request,
            _ = ended.recv() => return Ok(()),
        };
        let Some(request) = request else { return Ok(()) };
        let (request, respond) = request?;
        {
            let (came, last) = &mut *inject.last.lock();
            *came = u32::from(respond.stream_id());
            if last.is_some_and(|last| *came > last) {
                // Not processed, and nothing more is said of it.
                streams.spawn(async move {
                    let _held = (request, respond);
                    std::future::pending::<()>().await;
                });
                continue;
            }
        }
        let (state, inject) = (Arc::clone(state), inject.clone());
        streams.spawn(async move {
            // A stream that breaks is what this is for.
            let _ = answer(request, respond, number, &state, &inject).await;
        });
        while streams.try_join_next().is_some() {}
    }
}

/// Serves one stream.
async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    connection: u64,
    state: &State,
    inject: &Inject,
) -> Result<()> {
    let id = u32::from(respond.stream_id());
    let (head, mut body) = request.into_parts();
    let header = |name| head.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let seen = Seen {
        id: header("x-id"),
        method: head.method.to_string(),
        attempt: header("x-envoy-attempt-count"),
        connection,
        ..Seen::default()
    };
    let (at, script) = state.note(seen, &header("x-do"));
    let mut message = h2wire::Message::default();
    if !script.trim_start().starts_with("now") {
        h2wire::read(&mut body, &mut message).await?;
        state.came(at, message.body.len(), message.reset.is_none());
    }
    let whole = |respond: &mut SendResponse<Bytes>, status: u16, body: Vec<u8>| -> Result<()> {
        let response = Response::builder().status(status).header("content-length", body.len()).body(())?;
        respond.send_response(response, false)?.send_data(body.into(), true)?;
        Ok(())
    };
    let mut out = None;
    let mut sent = (0, 0);
    if script.trim().is_empty() {
        whole(&mut respond, 200, b"ok".to_vec())?;
    }
    for (step, argument) in steps(&script) {
        match step {
            "now" => {}
            "ok" => {
                whole(&mut respond, 200, b"ok".to_vec())?;
                sent = (1, 2);
            }
            "status" => whole(&mut respond, argument.parse()?, b"ok".to_vec())?,
            "bytes" => whole(&mut respond, 200, vec![b'x'; number(argument)?])?,
            "wide" => {
                let response = Response::builder().header("x-wide", "w".repeat(number(argument)?));
                respond
                    .send_response(response.body(())?, false)?
                    .send_data(Bytes::from_static(b"ok"), true)?;
            }
            "head" | "chunked" => {
                let response = Response::builder();
                let response =
                    if step == "head" { response.header("content-length", argument) } else { response };
                out = Some(respond.send_response(response.body(())?, false)?);
                sent.0 += 1;
            }
            "data" | "chunk" => {
                let size = number(argument)?;
                for part in parts(size) {
                    h2wire::push(out.as_mut().context("no head")?, part, false).await?;
                }
                sent.1 += size;
            }
            "end" => out.as_mut().context("no head")?.send_data(Bytes::new(), true)?,
            "hints" => {
                for _ in 0..number(argument)? {
                    respond.send_informational(Response::builder().status(103).body(())?)?;
                    sent.0 += 1;
                }
            }
            "gate" => state.pass_gate().await?,
            "hang" => std::future::pending::<()>().await,
            "close" => inject.after(id, sent, Out::Close).await?,
            "reset" => inject.after(id, sent, Out::Reset).await?,
            "rst" => {
                let code = u32::try_from(number(argument)?)?.to_be_bytes();
                inject.after(id, sent, Out::Frame(frame(3, 0, id, &code))).await?;
                std::future::pending::<()>().await;
            }
            "goaway" | "leave" => {
                let (last, code) = {
                    let (came, last) = &mut *inject.last.lock();
                    let told = if step == "goaway" { id.saturating_sub(2) } else { *came };
                    *last = Some(told);
                    (told, argument.parse().unwrap_or(0_u32))
                };
                let payload = [last.to_be_bytes(), code.to_be_bytes()].concat();
                inject.after(id, sent, Out::Frame(frame(7, 0, 0, &payload))).await?;
                if step == "goaway" {
                    std::future::pending::<()>().await;
                }
            }
            "streams" => {
                let most = u32::try_from(number(argument)?)?.to_be_bytes();
                let settings = frame(4, 0, 0, &[&[0, 3], &most[..]].concat());
                inject.after(id, sent, Out::Frame(settings)).await?;
            }
            "frame" => {
                inject
                    .after(id, sent, Out::Frame(frame(argument.parse()?, END_HEADERS, id, b"junk!")))
                    .await?;
                std::future::pending::<()>().await;
            }
            other => bail!("no such step over HTTP/2: {other}"),
        }
    }
    if script.trim_start().starts_with("now") {
        let _ = h2wire::read(&mut body, &mut message).await;
        state.came(at, message.body.len(), message.reset.is_none());
    }
    Ok(())
}

/// An address at which connecting hangs: the queue of connections that nobody accepts is full.
#[derive(Debug)]
pub struct BlackHole {
    /// Where it is.
    pub addr: SocketAddr,
    _listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl BlackHole {
    /// Makes one on a port of its own.
    ///
    /// # Errors
    /// No port is free, or the queue does not fill.
    pub async fn start() -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let listener = socket.listen(1)?;
        let addr = listener.local_addr()?;
        let mut waiting = Vec::new();
        for _ in 0..16 {
            match tokio::time::timeout(Duration::from_millis(500), TcpStream::connect(addr)).await {
                Ok(stream) => waiting.push(stream?),
                Err(_) => return Ok(Self { addr, _listener: listener, _waiting: waiting }),
            }
        }
        bail!("the queue does not fill")
    }
}
