//! Bytes from socket to socket without a copy in this process: a pipe that the kernel hangs received pages into and
//! sends them from (splice(2)).

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};
use tokio::io::{Interest, ReadHalf, WriteHalf};
use tokio::net::TcpStream;

/// What a pipe holds where the system lets it, bytes; else the system's default of 64 KiB.
const CAPACITY: usize = 1 << 20;

/// Most pipes that a thread keeps open while nobody uses them.
const KEPT: usize = 8;

thread_local! {
    static SPARE: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// A connection's stream, whose bytes may be those of a socket.
pub trait Socket {
    /// The socket, where its bytes are the stream's: no TLS.
    fn plain(&self) -> Option<&TcpStream> {
        None
    }

    /// Counts bytes that went past `poll_read` and `poll_write`.
    fn count(&mut self, received: usize, sent: usize) {
        let _ = (received, sent);
    }

    /// Notes a failure that they did not see.
    fn broke(&mut self) {}
}

impl<S> Socket for ReadHalf<S> {}

impl<S> Socket for WriteHalf<S> {}

#[cfg(test)]
impl Socket for tokio::io::DuplexStream {}

/// A pipe and what is in it.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
}

impl Pipe {
    /// An empty one, of those that this thread keeps, or a new one: two file descriptors. `None` when the system gives
    /// none.
    pub fn take() -> Option<Self> {
        SPARE.with_borrow_mut(Vec::pop).or_else(|| Self::new().ok())
    }

    /// Keeps an empty one for the next who wants one.
    pub fn put(self) {
        SPARE.with_borrow_mut(|spare| {
            if self.held == 0 && spare.len() < KEPT {
                spare.push(self);
            }
        });
    }

    fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Users may have so much in pipes and no more: pipe-user-pages-soft, pipe(7).
        let _ = fcntl_setpipe_size(&write, CAPACITY);
        Ok(Self { read, write, held: 0 })
    }

    /// Bytes in it.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Takes at most `most` bytes that `source` received; `Ready(0)` is the end. For an empty pipe only: with a full one
    /// nobody could tell which of the two is to be waited for.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        source: &TcpStream,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        debug_assert_eq!(self.held, 0);
        loop {
            ready!(source.poll_read_ready(cx))?;
            let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
            let filled = source.try_io(Interest::READABLE, || {
                Ok(splice(source, None, &self.write, None, most.min(CAPACITY), flags)?)
            });
            match filled {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(filled) => {
                    self.held = filled;
                    return Poll::Ready(Ok(filled));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Sends what it holds to `sink`, or some of it. Not while it is empty.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>, sink: &TcpStream) -> Poll<io::Result<usize>> {
        debug_assert_ne!(self.held, 0);
        loop {
            ready!(sink.poll_write_ready(cx))?;
            let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
            let drained = sink
                .try_io(Interest::WRITABLE, || Ok(splice(&self.read, None, sink, None, self.held, flags)?));
            match drained {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(drained) => {
                    self.held = self.held.saturating_sub(drained);
                    return Poll::Ready(Ok(drained));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

/// Whether the system does not splice such sockets at all. Anything else is the socket's own, and is told once.
pub fn is_unsupported(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::InvalidInput | Kind::Unsupported | Kind::PermissionDenied)
}
