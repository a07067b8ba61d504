//! HTTP/1.1 as bytes: an exact client, and an origin that does what a request's `x-do` header asks.
//!
//! Nothing here corrects, adds or hides anything, so that what a proxy sends can be compared to the byte.
//!
//! | `x-do` | the origin |
//! |---|---|
//! | none | answers 200 with a body of two bytes |
//! | a name in [`CANNED`] | answers those bytes |
//! | `status:N` | answers N with a body of two bytes, none where N has none |
//! | `bytes:N` | answers N bytes |
//! | `echo` | answers the body it got |
//! | `close`, `reset`, `never` | closes, resets, keeps silent, once it has the whole request |
//! | `delay:N` | answers after N ms |
//! | `early` | answers once it has the head, then reads on |
//! | `continue` | says 100 before it reads the body |

use anyhow::{Context, Result, bail, ensure};
use parking_lot::Mutex;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Longest wait for the next bytes of a message.
const DEADLINE: Duration = Duration::from_secs(20);

/// Longest body that a transcript shows in full.
const SHOWN: usize = 200;

/// Answers by name, to the byte.
pub const CANNED: &[(&str, &str)] = &[
    ("garbage", "this is not HTTP\r\n\r\n"),
    ("bad-status", "HTTP/1.1 abc OK\r\ncontent-length: 0\r\n\r\n"),
    ("bad-length", "HTTP/1.1 200 OK\r\ncontent-length: abc\r\n\r\n"),
    ("two-lengths", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok"),
    (
        "length-and-chunks",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ),
    ("bad-chunk", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n"),
    ("chunks", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"),
    (
        "trailers",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n",
    ),
    ("until-close", "HTTP/1.1 200 OK\r\nx-a: 1\r\n\r\nuntil the end"),
    ("half", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"),
    ("half-chunk", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhal"),
    ("close-header", "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"),
    ("http10", "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok"),
    (
        "hints",
        "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ),
    ("surprise-continue", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
    (
        "rich",
        "HTTP/1.1 200 Fine\r\nServer: Origin/1\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Type: text/x\r\n\
         Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Mixed-Case: Yes\r\nVia: 1.1 other\r\nContent-Length: 2\r\n\r\nok",
    ),
    (
        "hop-by-hop",
        "HTTP/1.1 200 OK\r\nconnection: x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\nproxy-connection: keep-alive\r\n\
         content-length: 2\r\nx-envoy-upstream-service-time: 77\r\nx-envoy-foo: 1\r\n\r\nok",
    ),
    ("not-modified", "HTTP/1.1 304 Not Modified\r\netag: \"a\"\r\ncontent-length: 100\r\n\r\n"),
    ("empty-value", "HTTP/1.1 200 OK\r\nx-empty:\r\nx-spaces:   a  b \t\r\ncontent-length: 2\r\n\r\nok"),
    ("no-reason", "HTTP/1.1 200 \r\ncontent-length: 2\r\n\r\nok"),
];

/// A request or a response as it was on the wire, its body without chunk framing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Request line or status line.
    pub start: String,
    /// Header lines, in order, split at the first colon.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Trailer lines.
    pub trailers: Vec<(String, String)>,
    /// The connection ended before the body did.
    pub truncated: bool,
}

impl Message {
    /// First value of a header, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| &**v)
    }

    /// Status code of a response.
    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_default()
    }

    /// The message as lines, each begun with `mark`; a long body as its length.
    pub fn describe(&self, mark: &str) -> String {
        let mut out = format!("{mark} {}\n", self.start);
        for (name, value) in &self.headers {
            let _ = writeln!(out, "{mark} {name}: {value}");
        }
        if self.body.len() > SHOWN {
            let same = self.body.iter().all(|b| *b == self.body[0]);
            let _ = writeln!(
                out,
                "{mark} ({} bytes, {})",
                self.body.len(),
                if same { "all the same" } else { "mixed" }
            );
        } else if !self.body.is_empty() {
            let _ = writeln!(out, "{mark} {:?}", String::from_utf8_lossy(&self.body));
        }
        for (name, value) in &self.trailers {
            let _ = writeln!(out, "{mark} trailer {name}: {value}");
        }
        if self.truncated {
            let _ = writeln!(out, "{mark} (cut short)");
        }
        out
    }
}

/// How a message's body ends when no header says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// No body.
    Request,
    /// With the connection.
    Response,
    /// No body whatever headers say.
    ResponseToHead,
}

/// One end of a connection, bytes in and out.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens.
    pub async fn connect(addr: SocketAddr) -> Result<Self> {
        Ok(Self::new(TcpStream::connect(addr).await?))
    }

    /// Over a connection there is.
    pub fn of(stream: TcpStream) -> Self {
        Self::new(stream)
    }

    fn new(stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true);
        Self { stream, buffer: Vec::new() }
    }

    /// Over a connection that is there.
    pub fn over(stream: TcpStream) -> Self {
        Self::new(stream)
    }

    /// Resets the connection.
    ///
    /// # Errors
    /// It is gone.
    pub fn reset(self) -> Result<()> {
        // Deprecated for async drops only: nothing is left to send here.
        Ok(rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO))?)
    }

    /// Reads and drops until the peer closes, or for so long.
    pub async fn rest_for(&mut self, time: Duration) {
        let read = async {
            let mut dropped = vec![0; 64 * 1024];
            while matches!(self.stream.read(&mut dropped).await, Ok(1..)) {}
        };
        let _ = timeout(time, read).await;
    }

    /// Sends these bytes.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(timeout(DEADLINE, self.stream.write_all(bytes)).await.context("peer does not read")??)
    }

    /// Reads more; false at the end. A reset counts as an end.
    async fn more(&mut self) -> Result<bool> {
        self.buffer.reserve(16 * 1024);
        let read =
            timeout(DEADLINE, self.stream.read_buf(&mut self.buffer)).await.context("peer is silent")?;
        Ok(matches!(read, Ok(1..)))
    }

    /// Whether the peer closes without sending anything.
    ///
    /// # Errors
    /// Neither bytes nor an end come.
    pub async fn ends(&mut self) -> Result<bool> {
        Ok(self.buffer.is_empty() && !self.more().await?)
    }

    /// Everything until the peer closes.
    ///
    /// # Errors
    /// It does not close.
    pub async fn rest(&mut self) -> Result<Vec<u8>> {
        while self.more().await? {}
        Ok(std::mem::take(&mut self.buffer))
    }

    /// The next bytes, so many.
    ///
    /// # Errors
    /// They do not come.
    pub async fn bytes(&mut self, count: usize) -> Result<Vec<u8>> {
        while self.buffer.len() < count {
            ensure!(self.more().await?, "the connection ends after {} bytes", self.buffer.len());
        }
        Ok(self.buffer.drain(..count).collect())
    }

    /// Sends these bytes and reads so many meanwhile; what was sent, and what was read.
    ///
    /// # Errors
    /// The connection ends.
    pub async fn exchange(&mut self, bytes: &[u8], count: usize) -> Result<(usize, Vec<u8>)> {
        let mut got = std::mem::take(&mut self.buffer);
        let (mut reader, mut writer) = self.stream.split();
        let read = async {
            while got.len() < count {
                let read = timeout(DEADLINE, reader.read_buf(&mut got)).await.context("peer is silent")??;
                ensure!(read > 0, "the connection ends");
            }
            Ok(())
        };
        let write = async { anyhow::Ok(writer.write_all(bytes).await?) };
        tokio::try_join!(read, write)?;
        self.buffer = got.split_off(count);
        Ok((bytes.len(), got))
    }

    /// Ends this side.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn finish(&mut self) -> Result<()> {
        Ok(self.stream.shutdown().await?)
    }

    async fn line(&mut self) -> Result<Option<String>> {
        let mut from = 0;
        loop {
            if let Some(at) = self.buffer[from..].iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=from + at).collect();
                let line = line.strip_suffix(b"\n").unwrap_or(&line);
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                return Ok(Some(String::from_utf8_lossy(line).into_owned()));
            }
            from = self.buffer.len();
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    async fn lines(&mut self) -> Result<Option<Vec<(String, String)>>> {
        let mut headers = Vec::new();
        loop {
            match self.line().await? {
                None => return Ok(None),
                Some(line) if line.is_empty() => return Ok(Some(headers)),
                Some(line) => {
                    let (name, value) = line.split_once(':').unwrap_or((&line, ""));
                    headers.push((name.to_owned(), value.trim().to_owned()));
                }
            }
        }
    }

    /// The next message's head; `None`: the connection ended before it.
    ///
    /// # Errors
    /// Silence, or an end within the head.
    pub async fn head(&mut self) -> Result<Option<Message>> {
        let Some(start) = self.line().await? else {
            ensure!(self.buffer.is_empty(), "ended within {:?}", String::from_utf8_lossy(&self.buffer));
            return Ok(None);
        };
        let headers = self.lines().await?.with_context(|| format!("ended within the head of {start}"))?;
        Ok(Some(Message { start, headers, ..Message::default() }))
    }

    /// Reads the rest of a message whose head was read.
    ///
    /// # Errors
    /// Silence or bad framing.
    pub async fn body(&mut self, message: &mut Message, role: Role) -> Result<()> {
        let status = message.status();
        let bodiless = status / 100 == 1 || status == 204 || status == 304;
        if role == Role::ResponseToHead || (role == Role::Response && bodiless) {
            return Ok(());
        }
        if message.header("transfer-encoding").is_some() {
            return self.chunks(message).await;
        }
        let length = match message.header("content-length") {
            Some(length) => length.parse().with_context(|| format!("content-length {length}"))?,
            None if role == Role::Request => 0,
            None => usize::MAX,
        };
        message.body = self.take(length).await?;
        message.truncated = length != usize::MAX && message.body.len() < length;
        Ok(())
    }

    /// Up to `length` bytes, fewer at the end of the connection.
    async fn take(&mut self, length: usize) -> Result<Vec<u8>> {
        while self.buffer.len() < length && self.more().await? {}
        let at = self.buffer.len().min(length);
        Ok(self.buffer.drain(..at).collect())
    }

    async fn chunks(&mut self, message: &mut Message) -> Result<()> {
        message.truncated = true;
        loop {
            let Some(line) = self.line().await? else { return Ok(()) };
            let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16)
                .with_context(|| format!("chunk size {line:?}"))?;
            if size == 0 {
                break;
            }
            let chunk = self.take(size).await?;
            let whole = chunk.len() == size;
            message.body.extend(chunk);
            if !whole || self.line().await?.is_none() {
                return Ok(());
            }
        }
        if let Some(trailers) = self.lines().await? {
            message.trailers = trailers;
            message.truncated = false;
        }
        Ok(())
    }

    /// The next whole message; `None`: the connection ended before it.
    ///
    /// # Errors
    /// Silence, bad framing, or an end within the head.
    pub async fn message(&mut self, role: Role) -> Result<Option<Message>> {
        let Some(mut message) = self.head().await? else { return Ok(None) };
        self.body(&mut message, role).await?;
        Ok(Some(message))
    }
}

/// A scriptable HTTP/1.1 origin. See the module.
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
                    let _ = serve(Wire::new(stream), &seen).await;
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

async fn serve(mut wire: Wire, seen: &Mutex<Vec<Message>>) -> Result<()> {
    while let Some(mut request) = wire.head().await? {
        let script = request.header("x-do").unwrap_or_default().to_owned();
        let role = if request.start.starts_with("HEAD ") { Role::ResponseToHead } else { Role::Response };
        match &*script {
            "early" => wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly").await?,
            "continue" => wire.send(b"HTTP/1.1 100 Continue\r\n\r\n").await?,
            _ => {}
        }
        wire.body(&mut request, Role::Request).await?;
        let body = request.body.clone();
        if !request.truncated {
            seen.lock().push(request);
        }
        let (name, number) = script.split_once(':').unwrap_or((&script, "0"));
        let number: usize = number.parse().unwrap_or_default();
        let ok = |status: usize, body: &[u8]| {
            let mut out = format!("HTTP/1.1 {status} Status\r\n").into_bytes();
            if status != 204 && status != 304 {
                out.extend(format!("content-length: {}\r\n\r\n", body.len()).bytes());
                out.extend(if role == Role::Response { body } else { b"" });
            } else {
                out.extend(b"\r\n");
            }
            out
        };
        match name {
            "early" => {}
            "status" => wire.send(&ok(number, b"ok")).await?,
            "bytes" => wire.send(&ok(200, &vec![b'x'; number])).await?,
            "echo" => wire.send(&ok(200, &body)).await?,
            "close" => return Ok(()),
            "reset" => return wire.reset(),
            "never" => {
                wire.rest().await?;
                return Ok(());
            }
            "delay" => {
                tokio::time::sleep(Duration::from_millis(number as u64)).await;
                wire.send(&ok(200, b"ok")).await?;
            }
            _ => match CANNED.iter().find(|(canned, _)| *canned == name) {
                Some((_, bytes)) => {
                    wire.send(bytes.as_bytes()).await?;
                    if matches!(
                        name,
                        "until-close" | "half" | "half-chunk" | "close-header" | "http10" | "garbage"
                    ) {
                        return Ok(());
                    }
                }
                None if name.is_empty() || name == "continue" => wire.send(&ok(200, b"ok")).await?,
                None => bail!("no such script: {name}"),
            },
        }
    }
    Ok(())
}
