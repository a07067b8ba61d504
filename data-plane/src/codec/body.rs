//! A message body as a stream of frames, whichever codec reads it.

use crate::transport::Pipe;
use bytes::Bytes;
use data_plane_core::headers::HeaderList;
use std::collections::VecDeque;
use std::task::{Context, Poll};

/// A piece of a body.
#[derive(Clone, Debug)]
pub enum Frame {
    /// Bytes; never empty.
    Data(Bytes),
    /// Trailers; always last.
    Trailers(HeaderList),
}

/// Why a body ended early.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The peer closed before the end of the message.
    #[error("peer closed before the end of the body")]
    Closed,
    /// The peer reset the stream (HTTP/2 error code).
    #[error("stream reset with code {0}")]
    Reset(u32),
    /// The peer broke the protocol.
    #[error("{0}")]
    Protocol(&'static str),
    /// Reading failed.
    #[error("read failed: {0:?}")]
    Io(std::io::ErrorKind),
    /// A deadline passed.
    #[error("timed out")]
    Timeout,
}

/// What a codec, a filter or an upstream exchange reads a body from.
pub trait BodySource {
    /// The next frame; `None` at the end. Not called again after the end or an error.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>>;

    /// Fills an empty pipe with the next bytes, never none, where they are a socket's as they are. `None`: what is next
    /// comes by [`Self::poll_frame`] only.
    fn poll_pipe(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Option<Poll<Result<usize, BodyError>>> {
        let _ = (cx, pipe);
        None
    }

    /// Bytes still to come, when known.
    fn remaining(&self) -> Option<u64> {
        None
    }
}

/// A message body. Reading is pull only: what is not polled exerts back-pressure down to the socket.
#[derive(Default)]
pub enum Body {
    /// Nothing, also no trailers.
    #[default]
    Empty,
    /// All of it at hand.
    Full(Bytes),
    /// Frames at hand.
    Frames(VecDeque<Frame>),
    /// Read as it comes.
    Stream(Box<dyn BodySource>),
}

impl Body {
    /// The next frame; `None` at the end.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::Data(bytes))))
            }
            Self::Frames(frames) => Poll::Ready(frames.pop_front().map(Ok)),
            Self::Stream(source) => {
                let polled = source.poll_frame(cx);
                if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
                    *self = Self::Empty;
                }
                polled
            }
        }
    }

    /// See [`BodySource::poll_pipe`].
    pub fn poll_pipe(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
    ) -> Option<Poll<Result<usize, BodyError>>> {
        let Self::Stream(source) = self else { return None };
        let polled = source.poll_pipe(cx, pipe);
        if matches!(polled, Some(Poll::Ready(Err(_)))) {
            *self = Self::Empty;
        }
        polled
    }

    /// The next frame; `None` at the end.
    ///
    /// # Cancel safety
    /// Cancel safe: a frame is lost only once returned.
    pub async fn frame(&mut self) -> Option<Result<Frame, BodyError>> {
        std::future::poll_fn(|cx| self.poll_frame(cx)).await
    }

    /// Whether nothing is left for sure, without reading.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Frames(frames) => frames.is_empty(),
            Self::Stream(_) => false,
        }
    }

    /// Bytes still to come, when known; what `content-length` would say.
    pub fn remaining(&self) -> Option<u64> {
        match self {
            Self::Empty => Some(0),
            Self::Full(bytes) => Some(bytes.len() as u64),
            Self::Frames(frames) => frames.iter().try_fold(0, |sum, frame| match frame {
                Frame::Data(bytes) => Some(sum + bytes.len() as u64),
                // A length and trailers exclude each other in HTTP/1.
                Frame::Trailers(_) => None,
            }),
            Self::Stream(source) => source.remaining(),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Full(bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_at_hand_know_their_length_unless_trailers_follow() {
        let data = Frame::Data(Bytes::from_static(b"abc"));
        let plain = Body::Frames(VecDeque::from([data.clone(), data.clone()]));
        assert_eq!(plain.remaining(), Some(6));
        let mut trailed = Body::Frames(VecDeque::from([data, Frame::Trailers(HeaderList::default())]));
        assert_eq!(trailed.remaining(), None);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(matches!(trailed.poll_frame(&mut cx), Poll::Ready(Some(Ok(Frame::Data(_))))));
        assert!(matches!(trailed.poll_frame(&mut cx), Poll::Ready(Some(Ok(Frame::Trailers(_))))));
        assert!(matches!(trailed.poll_frame(&mut cx), Poll::Ready(None)));
    }

    #[test]
    fn an_empty_full_body_yields_no_frame() {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(matches!(Body::Full(Bytes::new()).poll_frame(&mut cx), Poll::Ready(None)));
        assert!(Body::from(Bytes::new()).is_empty());
    }
}
