//! Tells HTTP/2 from HTTP/1 by the connection preface (RFC 9113 3.4), however slowly it comes.

use super::buffer::{self, Size};
use super::signals::Signals;
use super::timer::Timer;
use super::{EndReason, Io, ServerOptions};
use crate::task::{Phase, Shutdown};
use bytes::BytesMut;
use data_plane_core::config::CodecType;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use tokio::time::Instant;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection of which it is known what it speaks.
#[derive(Debug)]
pub(super) struct Detected<S> {
    pub(super) io: S,
    /// What was read on the way.
    pub(super) received: BytesMut,
    pub(super) http2: bool,
}

/// Reads until the bytes are a preface or can no longer become one, where `protocol` leaves it open.
///
/// # Errors
/// When the connection ends first.
pub(super) async fn detect<S: Io>(
    mut io: S,
    protocol: CodecType,
    born: Instant,
    options: Arc<ServerOptions>,
    shutdown: Shutdown,
) -> Result<Detected<S>, EndReason> {
    if protocol != CodecType::Auto {
        return Ok(Detected { io, received: BytesMut::new(), http2: protocol == CodecType::Http2 });
    }
    let mut signals = Signals::new(shutdown);
    let mut timer = Timer::default();
    let mut received = BytesMut::new();
    let mut began = None;
    let mut draining_since = None;
    let http2 = poll_fn(|cx| {
        loop {
            let seen = received.len().min(PREFACE.len());
            if received[..seen] != PREFACE[..seen] || seen == PREFACE.len() {
                let http2 = seen == PREFACE.len() && received.starts_with(PREFACE);
                return Poll::Ready(Ok(http2));
            }
            match buffer::poll_fill(&mut io, &mut received, Size::Small, cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(EndReason::Remote)),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => break,
            }
        }
        let idle = received.is_empty();
        match signals.poll(cx) {
            Phase::Stopped => return Poll::Ready(Err(EndReason::Stopped)),
            Phase::Draining if draining_since.is_none() => draining_since = Some(Instant::now()),
            _ => {}
        }
        let (limit, from, reason) = if let (true, Some(since)) = (idle, draining_since) {
            (Some(options.drain_timeout), since, EndReason::Drained)
        } else if idle {
            (options.idle_timeout, born, EndReason::IdleTimeout)
        } else {
            let began = *began.get_or_insert_with(Instant::now);
            let limit = options.request_headers_timeout.or(options.stream_idle_timeout);
            (limit, began, EndReason::HeadersTimeout)
        };
        timer.poll_until(limit.map(|d| from + d), cx).map(|()| Err(reason))
    })
    .await?;
    Ok(Detected { io, received, http2 })
}
