//! Finds dead peers by PING (Envoy `connection_keepalive`).

use crate::codec::timer::Timer;
use h2::PingPong;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// PINGs a connection at an interval, and tells when one is not answered in time.
pub(super) struct Keepalive {
    ping: PingPong,
    interval: Duration,
    timeout: Duration,
    due: Instant,
    /// A PING is out; `due` is when its answer must be here.
    waiting: bool,
}

impl Keepalive {
    pub(super) fn new(ping: PingPong, interval: Duration, timeout: Duration) -> Self {
        Self { ping, interval, timeout, due: Instant::now() + interval, waiting: false }
    }

    /// Ready when the peer failed to answer.
    pub(super) fn poll(&mut self, timer: &mut Timer, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.waiting {
                match self.ping.poll_pong(cx) {
                    Poll::Ready(Ok(_)) => {
                        self.waiting = false;
                        self.due = Instant::now() + self.interval;
                    }
                    Poll::Ready(Err(_)) => return Poll::Pending,
                    Poll::Pending => return timer.poll_until(Some(self.due), cx),
                }
            }
            if timer.poll_until(Some(self.due), cx).is_pending() {
                return Poll::Pending;
            }
            // An error is the connection's, and ends it elsewhere.
            self.waiting = self.ping.send_ping(h2::Ping::opaque()).is_ok();
            self.due = Instant::now() + if self.waiting { self.timeout } else { self.interval };
        }
    }
}
