//! Carrying bytes between two connections, both ways, each way until its end.
//!
//! What is read is written at once; what the other side does not take is held, and nothing more is read meanwhile.
//! So a connection holds at most one read's worth of bytes each way, and none while both sides keep up. The end of
//! one way is passed on (half-close) while the other goes on.
//!
//! Where both sides are plain TCP and much is coming, bytes go from socket to socket within the kernel.

use crate::http::Worker;
use crate::transport::pipe::is_unsupported;
use crate::transport::{Pipe, Socket};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Pieces smaller than this are copied: a pipe takes more system calls.
const BULK: usize = 16 << 10;

/// Whose fault it is that bytes no longer flow.
#[derive(Debug)]
pub(super) enum Fault {
    /// Reading failed.
    Source(io::Error),
    /// Writing failed.
    Sink(io::Error),
}

/// How bytes are carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Manner {
    #[default]
    Copy,
    /// A read filled the buffer: more is coming.
    Splice,
    /// Splicing is not possible here.
    OnlyCopy,
}

/// One way.
#[derive(Debug, Default)]
pub(super) struct Way {
    /// Read and not written yet, from `at` on.
    held: Vec<u8>,
    at: usize,
    /// While much is coming.
    pipe: Option<Pipe>,
    manner: Manner,
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
        self.held.len() - self.at + self.pipe.as_ref().map_or(0, Pipe::held)
    }

    /// Gives up what is held.
    pub(super) fn forget(&mut self) {
        self.held = Vec::new();
        self.at = 0;
        self.pipe = None;
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
        R: AsyncRead + Socket + Unpin,
        W: AsyncWrite + Socket + Unpin,
    {
        if self.told {
            return Poll::Ready(Ok(()));
        }
        loop {
            if self.manner == Manner::Splice && self.at == self.held.len() {
                ready!(self.poll_splice(cx, source, sink, limit))?;
            }
            while self.at < self.held.len() {
                let written = ready!(Pin::new(&mut *sink).poll_write(cx, &self.held[self.at..]));
                self.wrote(written.and_then(some).map_err(Fault::Sink)?);
            }
            self.held = Vec::new();
            self.at = 0;
            if self.ended {
                ready!(Pin::new(&mut *sink).poll_shutdown(cx)).map_err(Fault::Sink)?;
                self.told = true;
                return Poll::Ready(Ok(()));
            }
            let moved = worker.with_scratch(|scratch| {
                let most = scratch.len().min(limit);
                let mut buffer = ReadBuf::new(&mut scratch[..most]);
                ready!(Pin::new(&mut *source).poll_read(cx, &mut buffer)).map_err(Fault::Source)?;
                if buffer.filled().len() == most && self.manner == Manner::Copy {
                    self.manner = Manner::Splice;
                }
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

    /// Carries bytes within the kernel while many come. Ready when it is for ordinary reads to go on: they meet the end.
    fn poll_splice<R: Socket, W: Socket>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut R,
        sink: &mut W,
        limit: usize,
    ) -> Poll<Result<(), Fault>> {
        let (mut filled, mut waited) = (None, self.pipe.is_some());
        loop {
            let (Some(from), Some(to)) = (source.plain(), sink.plain()) else {
                self.manner = Manner::OnlyCopy;
                return Poll::Ready(Ok(()));
            };
            let Some(pipe) = self.pipe.take().or_else(Pipe::take) else {
                self.manner = Manner::Copy;
                return Poll::Ready(Ok(()));
            };
            let pipe = self.pipe.insert(pipe);
            if pipe.held() > 0 {
                match pipe.poll_drain(cx, to) {
                    Poll::Ready(Ok(drained)) => {
                        sink.count(0, drained);
                        self.written += drained as u64;
                    }
                    Poll::Ready(Err(error)) => {
                        sink.broke();
                        return Poll::Ready(Err(Fault::Sink(error)));
                    }
                    Poll::Pending => {
                        self.pauses += u64::from(!std::mem::replace(&mut waited, true));
                        return Poll::Pending;
                    }
                }
                continue;
            }
            // Bytes that come in small pieces are dearer this way.
            let over = filled.is_some_and(|filled| filled < BULK);
            let polled = if over { Poll::Ready(Ok(0)) } else { pipe.poll_fill(cx, from, limit) };
            match polled {
                Poll::Ready(Ok(more)) if more > 0 => {
                    source.count(more, 0);
                    self.read += more as u64;
                    (filled, waited) = (Some(more), false);
                    continue;
                }
                Poll::Ready(Err(error)) if !is_unsupported(&error) => {
                    source.broke();
                    return Poll::Ready(Err(Fault::Source(error)));
                }
                _ => {}
            }
            if let Some(pipe) = self.pipe.take() {
                pipe.put();
            }
            let Poll::Ready(told) = polled else { return Poll::Pending };
            self.manner = if told.is_ok() { Manner::Copy } else { Manner::OnlyCopy };
            return Poll::Ready(Ok(()));
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
