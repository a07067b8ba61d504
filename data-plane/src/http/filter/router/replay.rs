//! A request's body that may be needed again: kept as it passes, up to a limit.

use crate::codec::{Body, BodyError, BodySource, Frame};
use crate::stats::Counter;
use bytes::Bytes;
use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll};

/// A body that can be sent more than once.
pub(super) enum Replay {
    /// At hand.
    Whole(Bytes),
    /// Read as it comes, and kept.
    Kept(Rc<RefCell<Kept>>),
}

/// What of a body has passed.
pub(super) struct Kept {
    source: Body,
    frames: Vec<Frame>,
    bytes: u64,
    limit: u64,
    /// The source has ended, well or not.
    over: Option<Result<(), BodyError>>,
    /// More has passed than may be kept.
    lost: bool,
    /// Counts that.
    abandoned: Option<Counter>,
    /// Told once all of it has passed and is kept.
    then: Option<Then>,
}

/// Gets a source of copies.
type Then = Box<dyn FnOnce(&dyn Fn() -> Body)>;

impl Replay {
    /// `body`, of which up to `limit` bytes are kept; `abandoned` counts what does not fit.
    pub(super) fn new(body: Body, limit: u64, abandoned: Option<Counter>) -> Self {
        match body {
            Body::Empty => Self::Whole(Bytes::new()),
            Body::Full(bytes) if bytes.len() as u64 <= limit => Self::Whole(bytes),
            source => {
                let (frames, bytes, over, lost, then) = (Vec::new(), 0, None, false, None);
                Self::Kept(Rc::new(RefCell::new(Kept {
                    source,
                    frames,
                    bytes,
                    limit,
                    over,
                    lost,
                    abandoned,
                    then,
                })))
            }
        }
    }

    /// The body from its beginning. Only one is read at a time; none after [`Replay::is_lost`].
    pub(super) fn body(&self) -> Body {
        match self {
            Self::Whole(bytes) => Body::from(bytes.clone()),
            Self::Kept(kept) => Body::Stream(Box::new(Player { kept: Rc::clone(kept), next: 0 })),
        }
    }

    /// Whether it cannot be sent again.
    pub(super) fn is_lost(&self) -> bool {
        match self {
            Self::Whole(_) => false,
            Self::Kept(kept) => {
                let kept = kept.borrow();
                kept.lost || matches!(kept.over, Some(Err(_)))
            }
        }
    }

    /// Reads what is there without waiting, so that a body that has arrived is also known to have. Returns
    /// whether it could still be kept.
    pub(super) fn poll_more(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let Self::Kept(kept) = self else { return Poll::Pending };
        let mut kept = kept.borrow_mut();
        loop {
            if kept.lost {
                return Poll::Ready(false);
            }
            match kept.poll_source(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_))) => return Poll::Ready(false),
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Calls `then` with copies of it once all of it has passed and could be kept; never otherwise.
    pub(super) fn once_whole(&self, then: impl FnOnce(&dyn Fn() -> Body) + 'static) {
        match self {
            Self::Whole(bytes) => then(&|| Body::from(bytes.clone())),
            Self::Kept(kept) => kept.borrow_mut().then = Some(Box::new(then)),
        }
    }
}

impl Kept {
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        match &self.over {
            Some(Ok(())) => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(error.clone()))),
            None => {}
        }
        let polled = self.source.poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.keep(frame);
                // Whoever sends a body of known length may never ask for what follows its last byte.
                if matches!(frame, Frame::Trailers(_)) || self.source.remaining() == Some(0) {
                    self.end();
                }
            }
            Poll::Ready(Some(Err(error))) => self.over = Some(Err(error.clone())),
            Poll::Ready(None) => self.end(),
            Poll::Pending => {}
        }
        polled
    }

    fn end(&mut self) {
        self.over = Some(Ok(()));
        if let Some(then) = self.then.take() {
            then(&|| Body::Frames(self.frames.iter().cloned().collect()));
        }
    }

    fn keep(&mut self, frame: &Frame) {
        if self.lost {
            return;
        }
        if let Frame::Data(data) = frame {
            self.bytes += data.len() as u64;
        }
        if self.bytes > self.limit {
            self.lost = true;
            self.frames = Vec::new();
            self.then = None;
            if let Some(abandoned) = self.abandoned.take() {
                abandoned.inc();
            }
        } else {
            self.frames.push(frame.clone());
        }
    }
}

/// Plays what is kept, then goes on with the source.
struct Player {
    kept: Rc<RefCell<Kept>>,
    next: usize,
}

impl BodySource for Player {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let mut kept = self.kept.borrow_mut();
        if let Some(frame) = kept.frames.get(self.next) {
            self.next += 1;
            return Poll::Ready(Some(Ok(frame.clone())));
        }
        let polled = kept.poll_source(cx);
        self.next = kept.frames.len();
        polled
    }

    fn remaining(&self) -> Option<u64> {
        let kept = self.kept.borrow();
        let ahead =
            kept.frames[self.next.min(kept.frames.len())..].iter().try_fold(0, |sum, frame| match frame {
                Frame::Data(bytes) => Some(sum + bytes.len() as u64),
                Frame::Trailers(_) => None,
            })?;
        if kept.over.is_some() { Some(ahead) } else { Some(ahead + kept.source.remaining()?) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::task::Waker;

    fn frames(texts: &[&'static str]) -> Body {
        let frames: VecDeque<Frame> =
            texts.iter().map(|text| Frame::Data(Bytes::from_static(text.as_bytes()))).collect();
        Body::Frames(frames)
    }

    fn read(body: &mut Body, most: usize) -> String {
        let mut cx = Context::from_waker(Waker::noop());
        let mut text = String::new();
        for _ in 0..most {
            match body.poll_frame(&mut cx) {
                Poll::Ready(Some(Ok(Frame::Data(data)))) => {
                    text.push_str(std::str::from_utf8(&data).unwrap())
                }
                _ => break,
            }
        }
        text
    }

    #[test]
    fn a_body_is_sent_again_from_its_beginning_and_goes_on_where_it_was_left() {
        let replay = Replay::new(frames(&["ab", "cd", "ef"]), 100, None);
        assert_eq!(read(&mut replay.body(), 2), "abcd");
        assert!(!replay.is_lost());
        let copied = Rc::new(RefCell::new(None));
        let copy = Rc::clone(&copied);
        replay.once_whole(move |body| *copy.borrow_mut() = Some(body()));
        assert!(copied.borrow().is_none(), "not all of it has passed");
        let mut again = replay.body();
        assert_eq!(again.remaining(), Some(6));
        assert_eq!(read(&mut again, 9), "abcdef");
        assert_eq!(read(&mut replay.body(), 9), "abcdef");
        assert_eq!(read(copied.borrow_mut().as_mut().unwrap(), 9), "abcdef");
    }

    #[test]
    fn what_does_not_fit_is_sent_once() {
        let replay = Replay::new(frames(&["ab", "cd", "ef"]), 3, None);
        assert_eq!(read(&mut replay.body(), 9), "abcdef");
        assert!(replay.is_lost());
        let large = Replay::new(Body::Full(Bytes::from_static(b"abcd")), 3, None);
        assert_eq!(read(&mut large.body(), 9), "abcd");
        assert!(large.is_lost());
    }

    #[test]
    fn what_has_arrived_is_kept_without_being_sent() {
        let replay = Replay::new(frames(&["ab", "cd"]), 100, None);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(replay.poll_more(&mut cx).is_pending(), "nothing is wrong");
        assert_eq!(read(&mut replay.body(), 9), "abcd");
        let large = Replay::new(frames(&["ab", "cd"]), 3, None);
        assert_eq!(large.poll_more(&mut cx), Poll::Ready(false), "it does not fit");
    }
}
