//! Bytes without a protocol: an origin that does what the first line asks, and a client that tells a proper end from
//! a reset.
//!
//! The line is `DO word [number]`; what comes before it, as a header of the PROXY protocol does, is kept.
//!
//! | word | the origin |
//! |---|---|
//! | `echo` | sends back what comes, then `bye`, and ends |
//! | `close`, `reset` | closes, resets at once |
//! | `flood N` | sends N bytes of [`pattern`], ends its side, and takes what comes |
//! | `sum` | takes what comes to its end, and says how many bytes and their [`sum`] |
//! | `first` | says `hello` and ends its side, and takes what comes |
//! | `hold` | keeps silent to the end |

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Longest wait for bytes.
const DEADLINE: Duration = Duration::from_secs(60);

/// How one side of a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Properly.
    Closed,
    /// By a reset.
    Reset,
}

/// A connection that an origin had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What came before the line.
    pub prefix: Vec<u8>,
    /// What came after the line.
    pub bytes: u64,
    /// Their [`sum`].
    pub sum: u64,
    /// How the peer ended.
    pub end: End,
}

/// An origin.
#[derive(Debug)]
pub struct Origin {
    /// Where it listens.
    pub addr: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    _tasks: JoinSet<()>,
}

impl Origin {
    /// Starts one.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let mut tasks = JoinSet::new();
        let log = Arc::clone(&seen);
        tasks.spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let log = Arc::clone(&log);
                serving.spawn(async move {
                    if let Ok(seen) = serve(stream).await {
                        log.lock().push(seen);
                    }
                });
            }
        });
        Ok(Self { addr, seen, _tasks: tasks })
    }

    /// Connections that ended since the last call.
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock())
    }

    /// The next connection that ended.
    pub async fn next(&self) -> Seen {
        crate::eventually("a connection of the origin ends", async || {
            let mut seen = self.seen.lock();
            if seen.is_empty() { bail!("none has") } else { Ok(seen.remove(0)) }
        })
        .await
    }
}

async fn serve(mut stream: TcpStream) -> Result<Seen> {
    stream.set_nodelay(true)?;
    let mut head = Vec::new();
    let (prefix, line, rest) = loop {
        if let Some(at) = head.windows(3).position(|w| w == b"DO ")
            && let Some(end) = head[at..].iter().position(|b| *b == b'\n')
        {
            let line = String::from_utf8_lossy(&head[at + 3..at + end]).into_owned();
            break (head[..at].to_vec(), line, head[at + end + 1..].to_vec());
        }
        let mut more = [0; 4096];
        match stream.read(&mut more).await {
            Ok(0) => return Ok(Seen { prefix: head, bytes: 0, sum: 0, end: End::Closed }),
            Err(_) => return Ok(Seen { prefix: head, bytes: 0, sum: 0, end: End::Reset }),
            Ok(read) => head.extend_from_slice(&more[..read]),
        }
    };
    let mut taking = Taking { bytes: 0, sum: 0, rest };
    let (word, number) = line.split_once(' ').unwrap_or((&line, "0"));
    let end = match word {
        "echo" => {
            let end = taking.all(&mut stream, Echo::Yes).await?;
            let _ = stream.write_all(b"bye").await;
            let _ = stream.shutdown().await;
            end
        }
        "close" => End::Closed,
        "reset" => {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            End::Closed
        }
        "flood" => {
            let (mut reader, mut writer) = stream.split();
            let send = async {
                let mut left: u64 = number.parse()?;
                let mut at = 0;
                while left > 0 {
                    let chunk = pattern(at, left.min(65_536) as usize);
                    if writer.write_all(&chunk).await.is_err() {
                        return anyhow::Ok(());
                    }
                    (at, left) = (at + chunk.len() as u64, left - chunk.len() as u64);
                }
                let _ = writer.shutdown().await;
                Ok(())
            };
            let (sent, end) = tokio::join!(send, taking.read(&mut reader));
            sent?;
            end
        }
        "sum" => {
            let end = taking.all(&mut stream, Echo::No).await?;
            let _ = stream.write_all(format!("{} {}", taking.bytes, taking.sum).as_bytes()).await;
            end
        }
        "first" => {
            stream.write_all(b"hello").await?;
            stream.shutdown().await?;
            taking.all(&mut stream, Echo::No).await?
        }
        "hold" => taking.all(&mut stream, Echo::No).await?,
        other => bail!("the origin does not know {other:?}"),
    };
    Ok(Seen { prefix, bytes: taking.bytes, sum: taking.sum, end })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Echo {
    Yes,
    No,
}

struct Taking {
    bytes: u64,
    sum: u64,
    rest: Vec<u8>,
}

impl Taking {
    fn take(&mut self, bytes: &[u8]) {
        self.sum = sum(self.sum, bytes);
        self.bytes += bytes.len() as u64;
    }

    async fn all(&mut self, stream: &mut TcpStream, echo: Echo) -> Result<End> {
        let first = std::mem::take(&mut self.rest);
        self.take(&first);
        if echo == Echo::Yes {
            stream.write_all(&first).await?;
        }
        let mut buffer = vec![0; 65_536];
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) => return Ok(End::Closed),
                Err(_) => return Ok(End::Reset),
                Ok(read) => {
                    self.take(&buffer[..read]);
                    if echo == Echo::Yes && stream.write_all(&buffer[..read]).await.is_err() {
                        return Ok(End::Reset);
                    }
                }
            }
        }
    }

    async fn read(&mut self, reader: &mut (impl AsyncReadExt + Unpin)) -> End {
        let first = std::mem::take(&mut self.rest);
        self.take(&first);
        let mut buffer = vec![0; 65_536];
        loop {
            match reader.read(&mut buffer).await {
                Ok(0) => return End::Closed,
                Err(_) => return End::Reset,
                Ok(read) => self.take(&buffer[..read]),
            }
        }
    }
}

/// Bytes of an endless sequence without short periods, from `at` on.
pub fn pattern(at: u64, len: usize) -> Vec<u8> {
    (at..at + len as u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u8).collect()
}

/// A sum that knows the order of bytes.
pub fn sum(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)))
}

/// A client.
#[derive(Debug)]
pub struct Client(pub TcpStream);

impl Client {
    /// Connects and sends these bytes.
    ///
    /// # Errors
    /// Nobody listens.
    pub async fn send(addr: SocketAddr, bytes: &[u8]) -> Result<Self> {
        let mut stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        // A proxy that refuses may be gone by now, which reading tells.
        let _ = stream.write_all(bytes).await;
        Ok(Self(stream))
    }

    /// Sends more.
    ///
    /// # Errors
    /// The peer does not take it.
    pub async fn more(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(timeout(DEADLINE, self.0.write_all(bytes)).await.context("the peer does not read")??)
    }

    /// Ends its side.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn finish(&mut self) -> Result<()> {
        Ok(self.0.shutdown().await?)
    }

    /// So many bytes.
    ///
    /// # Errors
    /// They do not come.
    pub async fn exactly(&mut self, bytes: usize) -> Result<Vec<u8>> {
        let mut out = vec![0; bytes];
        timeout(DEADLINE, self.0.read_exact(&mut out)).await.context("the peer is silent")??;
        Ok(out)
    }

    /// All that comes, and how it ends.
    ///
    /// # Errors
    /// It does not end.
    pub async fn rest(&mut self) -> Result<(Vec<u8>, End)> {
        let mut out = Vec::new();
        match timeout(DEADLINE, self.0.read_to_end(&mut out)).await.context("the peer does not end")? {
            Ok(_) => Ok((out, End::Closed)),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok((out, End::Reset)),
            Err(error) => Err(error.into()),
        }
    }

    /// Closes by a reset.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn reset(self) -> Result<()> {
        Ok(socket2::SockRef::from(&self.0).set_linger(Some(Duration::ZERO))?)
    }
}

/// What an echo through TLS brings back of `word`, sent to `name` at `addr` and verified by `authority` (PEM).
///
/// # Errors
/// There is no handshake, or the echo does not come.
pub async fn echo_tls(addr: SocketAddr, authority: &str, name: &str, word: &[u8]) -> Result<Vec<u8>> {
    let mut stream = crate::https::Tls::new(authority, name, None)?.connect(addr).await?;
    stream.write_all(&[b"DO echo\n", word].concat()).await?;
    let mut out = vec![0; word.len()];
    timeout(DEADLINE, stream.read_exact(&mut out)).await.context("the peer is silent")??;
    Ok(out)
}
