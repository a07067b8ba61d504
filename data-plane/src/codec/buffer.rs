//! Read and write buffers, borrowed from a per-thread pool while a connection is busy.
//!
//! An idle connection holds none. A buffer whose bytes are still referenced by body frames is not kept: the
//! frames own the memory then.

use bytes::{Bytes, BytesMut};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Size of an ordinary read buffer, bytes.
pub(super) const SMALL: usize = 16 * 1024;

/// Largest copy that pooled memory is used for, and how many such a thread keeps.
const SHORT: usize = 2 * 1024;
const KEPT_SHORT: usize = 64;

/// Most write buffers kept by a thread, and the capacity beyond which one is freed.
const KEPT_WRITE: usize = 64;
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

    /// How large reads may be while `coming` bytes are to come.
    pub(super) fn reads(self, coming: u64) -> Size {
        let fits = |size: &Size| coming > size.below() && self.0 >= 2 * size.bytes();
        Size::ALL.into_iter().rev().find(fits).unwrap_or(Size::Small)
    }

    /// `bytes`, or less where the limit is lower.
    pub(super) fn at_most(self, bytes: usize) -> usize {
        bytes.min(self.0)
    }
}

#[derive(Default)]
struct Pool {
    /// By [`Size`].
    read: [Vec<BytesMut>; Size::ALL.len()],
    write: Vec<Vec<u8>>,
    /// What short copies were last made in; most are of no more use to anyone.
    short: VecDeque<BytesMut>,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

/// How large a read buffer is wanted: the more is to come, the fewer system calls a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    Small,
    Medium,
    Large,
}

impl Size {
    const ALL: [Self; 3] = [Self::Small, Self::Medium, Self::Large];

    const fn bytes(self) -> usize {
        match self {
            Self::Small => SMALL,
            Self::Medium => 64 * 1024,
            Self::Large => 256 * 1024,
        }
    }

    /// It takes more than this to come.
    const fn below(self) -> u64 {
        match self {
            Self::Small => 0,
            Self::Medium => Self::Small.bytes() as u64,
            Self::Large => Self::Medium.bytes() as u64,
        }
    }

    /// Most buffers kept by a thread. More in use at a time are allocated and freed.
    const fn kept(self) -> usize {
        match self {
            Self::Small => 64,
            Self::Medium => 16,
            Self::Large => 4,
        }
    }
}

fn take_read(size: Size) -> BytesMut {
    POOL.with_borrow_mut(|pool| pool.read[size as usize].pop())
        .unwrap_or_else(|| BytesMut::with_capacity(size.bytes()))
}

/// Gives a read buffer back; what is in it is forgotten.
pub(super) fn put_read(buffer: &mut BytesMut) {
    if buffer.capacity() == 0 {
        return;
    }
    let mut buffer = std::mem::take(buffer);
    buffer.clear();
    // Most are small, and partly read.
    if buffer.capacity() < SMALL && !buffer.try_reclaim(SMALL) {
        return;
    }
    let whole = Size::ALL.into_iter().find(|size| buffer.capacity() == size.bytes());
    let size = whole.or_else(|| Size::ALL.into_iter().rev().find(|size| buffer.try_reclaim(size.bytes())));
    let Some(size) = size else { return };
    POOL.with_borrow_mut(|pool| {
        let kept = &mut pool.read[size as usize];
        if kept.len() < size.kept() {
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
        if pool.write.len() < KEPT_WRITE {
            pool.write.push(buffer);
        }
    });
}

/// A copy of `bytes`. Short ones take memory of copies that are gone.
pub(super) fn copy(bytes: &[u8]) -> Bytes {
    if bytes.len() > SHORT {
        return Bytes::copy_from_slice(bytes);
    }
    POOL.with_borrow_mut(|pool| {
        let short = &mut pool.short;
        // Mostly the last one is free, which is warm, or else the oldest.
        let mut free = None;
        for take in [VecDeque::pop_back, VecDeque::pop_front] {
            let Some(mut buffer) = take(short) else { break };
            if buffer.try_reclaim(SHORT) {
                free = Some(buffer);
                break;
            }
            short.push_back(buffer);
        }
        let mut buffer = free.unwrap_or_else(|| BytesMut::with_capacity(SHORT));
        buffer.extend_from_slice(bytes);
        let copy = buffer.split().freeze();
        if short.len() < KEPT_SHORT {
            short.push_back(buffer);
        }
        copy
    })
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
    let is_larger_wanted = buffer.is_empty() && buffer.capacity() < size.bytes() && size != Size::Small;
    if buffer.capacity() - buffer.len() < WORTHWHILE || is_larger_wanted {
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
        assert!(
            POOL.with_borrow(|p| p.read[0].is_empty()),
            "memory in use by a frame must not be lent again"
        );
        drop(frame);
        let mut buffer = take_read(Size::Small);
        buffer.extend_from_slice(b"x");
        put_read(&mut buffer);
        assert_eq!(POOL.with_borrow(|p| p.read[0].len()), 1);
        let again = take_read(Size::Small);
        assert!(again.is_empty() && again.capacity() >= SMALL);
    }

    #[test]
    fn buffers_come_back_as_large_as_they_were_lent() {
        for size in Size::ALL {
            for read in [0, 1, 9_000, size.bytes() - 1] {
                let mut buffer = take_read(size);
                buffer.resize(read, 0);
                drop(buffer.split_to(read));
                put_read(&mut buffer);
                assert_eq!(POOL.with_borrow(|p| p.read[size as usize].len()), 1, "{size:?} {read}");
                POOL.with_borrow_mut(|p| p.read = Default::default());
            }
        }
    }

    #[test]
    fn reads_grow_with_what_is_to_come_within_the_limit() {
        let limit = BufferLimit::of_bytes(1 << 20);
        let small = BufferLimit::of_bytes(32 * 1024);
        for (coming, size) in [
            (0, Size::Small),
            (16 * 1024, Size::Small),
            (16 * 1024 + 1, Size::Medium),
            (64 * 1024, Size::Medium),
            (u64::MAX, Size::Large),
        ] {
            assert_eq!(limit.reads(coming), size, "{coming}");
            assert_eq!(small.reads(coming), Size::Small);
        }
        assert_eq!(BufferLimit::of_bytes(128 * 1024).reads(u64::MAX), Size::Medium);
    }

    #[test]
    fn short_copies_take_the_memory_of_those_that_are_gone() {
        let first = copy(b"first");
        let memory = first.as_ptr();
        let second = copy(b"second");
        assert_ne!(second.as_ptr(), memory, "in use");
        drop(first);
        let third = copy(b"third");
        assert_eq!((&*second, &*third, third.as_ptr()), (&b"second"[..], &b"third"[..], memory));
        drop((second, third));
        let many: Vec<_> = (0..2 * KEPT_SHORT).map(|n| copy(&[n as u8; SHORT])).collect();
        assert!(many.iter().enumerate().all(|(n, copy)| copy.iter().all(|byte| usize::from(*byte) == n)));
        assert_eq!(POOL.with_borrow(|p| p.short.len()), KEPT_SHORT);
        assert_eq!(copy(&[7; SHORT + 1]).len(), SHORT + 1);
    }

    #[test]
    fn the_pool_is_bounded() {
        for _ in 0..2 * KEPT_WRITE {
            put_write(Vec::with_capacity(16));
        }
        assert_eq!(POOL.with_borrow(|p| p.write.len()), KEPT_WRITE);
        put_write(Vec::with_capacity(KEPT_WRITE_CAPACITY + 1));
        assert_eq!(POOL.with_borrow(|p| p.write.len()), KEPT_WRITE);
    }
}
