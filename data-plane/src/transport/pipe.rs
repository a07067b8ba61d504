//! Bytes from socket to socket without a copy in this process: a pipe that the kernel hangs received pages into and
//! sends them from (splice(2)).

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice};
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{Interest, ReadHalf, WriteHalf};
use tokio::net::TcpStream;

/// What a pipe holds where the system lets it, bytes.
const CAPACITY: usize = 256 << 10;
/// What it holds at least. Users who have much in pipes get ones of two pages (pipe-user-pages-soft, pipe(7)), with which
/// copying is cheaper.
const WORTHWHILE: usize = 64 << 10;
/// How long none is asked for once the system gave none, or none worth it.
const RETRY: Duration = Duration::from_secs(1);

/// Most pipes that a thread keeps open while nobody uses them.
const KEPT: usize = 8;

thread_local! {
    static SPARE: RefCell<Spare> = const { RefCell::new(Spare { pipes: Vec::new(), unused: 0 }) };
    /// When the system gave none.
    static DENIED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Pipes that a thread keeps open while nobody uses them.
struct Spare {
    pipes: Vec<Pipe>,
    /// So many of them were not taken since [`Pipe::close_unused`].
    unused: usize,
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
        let kept = SPARE.with_borrow_mut(|spare| {
            let kept = spare.pipes.pop();
            spare.unused = spare.unused.min(spare.pipes.len());
            kept
        });
        if kept.is_some() || DENIED.get().is_some_and(|at| at.elapsed() < RETRY) {
            return kept;
        }
        let fresh = Self::new().ok();
        DENIED.set(fresh.is_none().then(Instant::now));
        fresh
    }

    /// Keeps an empty one for the next who wants one.
    pub fn put(self) {
        SPARE.with_borrow_mut(|spare| {
            if self.held == 0 && spare.pipes.len() < KEPT {
                spare.pipes.push(self);
            }
        });
    }

    /// Closes those that this thread keeps and did not use since the last call.
    pub fn close_unused() {
        SPARE.with_borrow_mut(|spare| {
            spare.pipes.drain(..spare.unused);
            spare.unused = spare.pipes.len();
        });
    }

    fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let _ = fcntl_setpipe_size(&write, CAPACITY);
        if fcntl_getpipe_size(&write)? < WORTHWHILE {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
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
                // A sink that takes nothing of something will never take anything.
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> usize {
        SPARE.with_borrow(|spare| spare.pipes.len())
    }

    #[test]
    fn pipes_are_kept_while_they_are_used_and_then_closed() {
        let many: Vec<_> = (0..=KEPT).map(|_| Pipe::take().unwrap()).collect();
        many.into_iter().for_each(Pipe::put);
        assert_eq!(kept(), KEPT);
        Pipe::close_unused();
        assert_eq!(kept(), KEPT, "used since the last call, of which there was none");
        let (one, two) = (Pipe::take().unwrap(), Pipe::take().unwrap());
        assert_eq!(kept(), KEPT - 2);
        one.put();
        two.put();
        Pipe::close_unused();
        assert_eq!(kept(), 2);
        Pipe::close_unused();
        assert_eq!(kept(), 0);
    }

    #[test]
    fn a_pipe_that_holds_something_is_not_kept() {
        Pipe { held: 1, ..Pipe::new().unwrap() }.put();
        assert_eq!(kept(), 0);
    }
}
