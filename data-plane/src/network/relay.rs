//! Carrying bytes between two connections, both ways, each way until its end.
//!
//! What is read is written at once; what the other side does not take is held, and nothing more is read meanwhile.
//! So a connection holds at most one read's worth of bytes each way, and none while both sides keep up. The end of
//! one way is passed on (half-close) while the other goes on.

use crate::http::Worker;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Whose fault it is that bytes no longer flow.
#[derive(Debug)]
pub(super) enum Fault {
    /// Reading failed.
    Source(io::Error),
    /// Writing failed.
    Sink(io::Error),
}

/// One way.
#[derive(Debug, Default)]
pub(super) struct Way {
    /// Read and not written yet, from `at` on.
    held: Vec<u8>,
    at: usize,
    /// Nothing more will be read.
    ended: bool,
    /// The other side was told so.
    told: bool,
    /// Written bytes may still be in the other side's own buffers.
    unflushed: bool,
    pub(super) read: u64,
    pub(super) written: u64,
    /// Times that reading had to stop.
    pub(super) pauses: u64,
}

impl Way {
    /// Bytes held back.
    pub(super) fn held(&self) -> usize {
        self.held.len() - self.at
    }

    /// Gives up what is held.
    pub(super) fn forget(&mut self) {
        self.held = Vec::new();
        self.at = 0;
    }

    /// Whether the end was passed on.
    pub(super) fn is_over(&self) -> bool {
        self.told
    }

    /// Carries what there is; ready once the end was passed on. Reads at most `limit` bytes at a time, which is not
    /// zero.
    pub(super) fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut R,
        sink: &mut W,
        worker: &Worker,
        limit: usize,
    ) -> Poll<Result<(), Fault>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        if self.told {
            return Poll::Ready(Ok(()));
        }
        loop {
            while self.at < self.held.len() {
                let written = ready!(Pin::new(&mut *sink).poll_write(cx, &self.held[self.at..]));
                self.wrote(written.and_then(some).map_err(Fault::Sink)?);
            }
            self.forget();
            if self.ended {
                ready!(Pin::new(&mut *sink).poll_shutdown(cx)).map_err(Fault::Sink)?;
                self.told = true;
                return Poll::Ready(Ok(()));
            }
            let moved = worker.with_scratch(|scratch| {
                let most = scratch.len().min(limit);
                let mut buffer = ReadBuf::new(&mut scratch[..most]);
                ready!(Pin::new(&mut *source).poll_read(cx, &mut buffer)).map_err(Fault::Source)?;
                Poll::Ready(self.pass(cx, buffer.filled(), sink).map_err(Fault::Sink))
            });
            match moved {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(fault)) => return Poll::Ready(Err(fault)),
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *sink).poll_flush(cx)).map_err(Fault::Sink)?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Writes what was just read, and holds what is not taken.
    fn pass<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        mut bytes: &[u8],
        sink: &mut W,
    ) -> io::Result<()> {
        self.ended = bytes.is_empty();
        self.read += bytes.len() as u64;
        while !bytes.is_empty() {
            match Pin::new(&mut *sink).poll_write(cx, bytes) {
                Poll::Ready(written) => {
                    let written = some(written?)?;
                    self.written += written as u64;
                    self.unflushed = true;
                    bytes = &bytes[written..];
                }
                Poll::Pending => {
                    self.pauses += 1;
                    self.held = bytes.to_vec();
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn wrote(&mut self, written: usize) {
        self.at += written;
        self.written += written as u64;
        self.unflushed = true;
    }
}

/// A sink that takes nothing of something will never take anything.
fn some(written: usize) -> io::Result<usize> {
    if written == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(written) }
}
