//! The process's end, as a connection sees it.

use crate::task::{Phase, Shutdown};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};

/// The process's end, watched without asking anew for each request.
pub(super) struct Signals {
    shutdown: Shutdown,
    /// Nothing had been told when this was made: while nothing changes, nothing is.
    was_calm: bool,
    waiting_for: Phase,
    stopped: bool,
    wait: Pin<Box<dyn Future<Output = ()>>>,
    /// Whom `wait` wakes, while serving.
    registered: Option<Waker>,
}

impl Signals {
    pub(super) fn new(shutdown: Shutdown) -> Self {
        let wait = Self::wait(&shutdown, Phase::Draining);
        Self {
            was_calm: !shutdown.has_begun(),
            shutdown,
            waiting_for: Phase::Draining,
            stopped: false,
            wait,
            registered: None,
        }
    }

    fn wait(shutdown: &Shutdown, phase: Phase) -> Pin<Box<dyn Future<Output = ()>>> {
        let mut shutdown = shutdown.clone();
        Box::pin(async move { shutdown.reached(phase).await })
    }

    /// Cheaper than to ask for the phase, which each request does several times.
    fn is_calm(&self) -> bool {
        self.was_calm && !self.shutdown.has_changed()
    }

    /// The phase reached, without registering for the next.
    pub(super) fn phase(&self) -> Phase {
        if self.is_calm() { Phase::Running } else { self.shutdown.phase() }
    }

    /// The phase reached; registers for the next.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Phase {
        if self.is_calm() && self.registered.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            return Phase::Running;
        }
        if self.waiting_for == Phase::Draining && self.wait.as_mut().poll(cx).is_ready() {
            self.waiting_for = Phase::Stopped;
            self.wait = Self::wait(&self.shutdown, Phase::Stopped);
        }
        if self.waiting_for == Phase::Draining {
            self.registered = Some(cx.waker().clone());
            return Phase::Running;
        }
        self.registered = None;
        self.stopped = self.stopped || self.wait.as_mut().poll(cx).is_ready();
        if self.stopped { Phase::Stopped } else { Phase::Draining }
    }
}
