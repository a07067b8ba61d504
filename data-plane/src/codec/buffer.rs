//! Read and write buffers, borrowed from a per-thread pool while a connection is busy.
//!
//! An idle connection holds none. A buffer whose bytes are still referenced by body frames is not kept: the
//! frames own the memory then.

use bytes::BytesMut;
use std::cell::RefCell;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Size of an ordinary read buffer, bytes.
pub(super) const SMALL: usize = 16 * 1024;
/// Size of a read buffer for long bodies, bytes: fewer system calls a byte.
pub(super) const LARGE: usize = 256 * 1024;

/// Most buffers kept by a thread, of each kind. More in use at a time are allocated and freed.
const KEPT_SMALL: usize = 64;
const KEPT_LARGE: usize = 4;
/// A write buffer that grew beyond this is freed.
const KEPT_WRITE_CAPACITY: usize = 64 * 1024;

/// How much of what passes through it a connection may hold (Envoy `per_connection_buffer_limit_bytes`): beyond that
/// nothing is asked of the other side. Soft, as a read or a frame is taken whole, and never less than one small read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferLimit(usize);

impl BufferLimit {
    /// A limit; zero means none, as in Envoy.
    pub fn of_bytes(bytes: u64) -> Self {
        match usize::try_from(bytes) {
            Ok(0) | Err(_) => Self(usize::MAX),
            Ok(bytes) => Self(bytes.max(SMALL)),
        }
    }

    /// How large reads may be, of a message that is long or not.
    pub(super) fn reads(self, long: bool) -> Size {
        if long && self.0 >= 2 * LARGE { Size::Large } else { Size::Small }
    }

    /// `bytes`, or less where the limit is lower.
    pub(super) fn at_most(self, bytes: usize) -> usize {
        bytes.min(self.0)
    }
}

#[derive(Default)]
struct Pool {
    small: Vec<BytesMut>,
    large: Vec<BytesMut>,
    write: Vec<Vec<u8>>,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

/// How large a read buffer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    Small,
    Large,
}

impl Size {
    const fn bytes(self) -> usize {
        match self {
            Self::Small => SMALL,
            Self::Large => LARGE,
        }
    }
}

fn take_read(size: Size) -> BytesMut {
    POOL.with_borrow_mut(|pool| match size {
        Size::Small => pool.small.pop(),
        Size::Large => pool.large.pop(),
    })
    .unwrap_or_else(|| BytesMut::with_capacity(size.bytes()))
}

/// Gives a read buffer back; what is in it is forgotten.
pub(super) fn put_read(buffer: &mut BytesMut) {
    if buffer.capacity() == 0 {
        return;
    }
    let mut buffer = std::mem::take(buffer);
    buffer.clear();
    // One from which nothing was taken is whole as it is.
    let is_large = buffer.capacity() > SMALL && buffer.try_reclaim(LARGE);
    if !is_large && buffer.capacity() < SMALL && !buffer.try_reclaim(SMALL) {
        return;
    }
    POOL.with_borrow_mut(|pool| {
        let (kept, most) =
            if is_large { (&mut pool.large, KEPT_LARGE) } else { (&mut pool.small, KEPT_SMALL) };
        if kept.len() < most {
            kept.push(buffer);
        }
    });
}

/// Takes an empty write buffer, of any capacity.
pub(super) fn take_write() -> Vec<u8> {
    POOL.with_borrow_mut(|pool| pool.write.pop()).unwrap_or_else(|| Vec::with_capacity(4096))
}

/// Gives a write buffer back; what is in it is forgotten.
pub(super) fn put_write(mut buffer: Vec<u8>) {
    if buffer.capacity() == 0 || buffer.capacity() > KEPT_WRITE_CAPACITY {
        return;
    }
    buffer.clear();
    POOL.with_borrow_mut(|pool| {
        if pool.write.len() < KEPT_SMALL {
            pool.write.push(buffer);
        }
    });
}

/// Reads once, behind what `buffer` holds. `Ready(0)` is the end of the stream. While nothing is at hand an empty
/// buffer goes back to the pool.
pub(super) fn poll_fill<S: AsyncRead + Unpin>(
    io: &mut S,
    buffer: &mut BytesMut,
    size: Size,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    /// Room below which reading is not worth a system call.
    const WORTHWHILE: usize = 1024;
    if buffer.capacity() - buffer.len() < WORTHWHILE || (size == Size::Large && buffer.is_empty()) {
        if buffer.is_empty() {
            if !buffer.try_reclaim(size.bytes()) {
                put_read(buffer);
                *buffer = take_read(size);
            }
        } else if !buffer.try_reclaim(WORTHWHILE) {
            buffer.reserve(size.bytes());
        }
    }
    let polled = {
        use std::future::Future as _;
        let read = pin!(io.read_buf(buffer));
        read.poll(cx)
    };
    if polled.is_pending() && buffer.is_empty() {
        put_read(buffer);
    }
    polled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_once_its_frames_are_gone() {
        let mut buffer = take_read(Size::Small);
        buffer.extend_from_slice(b"head and body");
        let frame = buffer.split_to(4).freeze();
        put_read(&mut buffer);
        assert!(POOL.with_borrow(|p| p.small.is_empty()), "memory in use by a frame must not be lent again");
        drop(frame);
        let mut buffer = take_read(Size::Small);
        buffer.extend_from_slice(b"x");
        put_read(&mut buffer);
        assert_eq!(POOL.with_borrow(|p| p.small.len()), 1);
        let again = take_read(Size::Small);
        assert!(again.is_empty() && again.capacity() >= SMALL);
    }

    #[test]
    fn the_pool_is_bounded() {
        for _ in 0..2 * KEPT_SMALL {
            put_write(Vec::with_capacity(16));
        }
        assert_eq!(POOL.with_borrow(|p| p.write.len()), KEPT_SMALL);
        put_write(Vec::with_capacity(KEPT_WRITE_CAPACITY + 1));
        assert_eq!(POOL.with_borrow(|p| p.write.len()), KEPT_SMALL);
    }
}
