//! The outside's hold on a running proxy.

use super::{Boot, StartError};
use crate::stats::Registry;
use std::net::SocketAddr;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc::Sender;

/// Longest wait for the control thread to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// A listener as seen from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerInfo {
    /// Its name.
    pub name: String,
    /// The addresses it is bound to; port 0 is resolved.
    pub addresses: Vec<SocketAddr>,
}

/// What the outside asks of the control thread.
pub(super) enum Command {
    Listeners(SyncSender<Vec<ListenerInfo>>),
    WhenReady(SyncSender<()>),
    Reload(Box<Boot>, SyncSender<Result<(), StartError>>),
    Drain,
    Stop,
}

/// What the control thread says once it runs.
pub(super) struct Started {
    pub(super) admin: Option<SocketAddr>,
    pub(super) stats: Registry,
}

/// A running proxy. Dropping it stops the proxy at once and waits for its end.
#[derive(Debug)]
pub struct Handle {
    started_admin: Option<SocketAddr>,
    stats: Registry,
    commands: Sender<Command>,
    thread: Option<JoinHandle<Result<(), StartError>>>,
}

impl Handle {
    pub(super) fn new(
        started: Started,
        commands: Sender<Command>,
        thread: JoinHandle<Result<(), StartError>>,
    ) -> Self {
        let Started { admin, stats } = started;
        Self { started_admin: admin, stats, commands, thread: Some(thread) }
    }

    /// Where the admin server listens.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.started_admin
    }

    /// All metrics.
    pub fn stats(&self) -> &Registry {
        &self.stats
    }

    /// The active listeners and where they are bound. Blocks the thread for a moment.
    pub fn listeners(&self) -> Vec<ListenerInfo> {
        self.ask(Command::Listeners, ANSWER).unwrap_or_default()
    }

    /// The first bound address of a listener, once it is active. Blocks the thread for a moment.
    pub fn listener_addr(&self, name: &str) -> Option<SocketAddr> {
        self.listeners().into_iter().find(|l| l.name == name)?.addresses.first().copied()
    }

    /// Waits until the proxy serves (`/ready` says LIVE); false after `limit`. Blocks the thread.
    pub fn ready(&self, limit: Duration) -> bool {
        self.ask(Command::WhenReady, limit).is_some()
    }

    /// Takes another bootstrap's static clusters and listeners in the place of the present ones, as on SIGHUP.
    /// Blocks the thread for a moment.
    ///
    /// # Errors
    /// A listener cannot be had; nothing has changed then.
    pub fn reload(&self, boot: Boot) -> Result<(), StartError> {
        let command = |answer| Command::Reload(Box::new(boot), answer);
        self.ask(command, ANSWER).unwrap_or_else(|| {
            Err(StartError::System {
                what: "the proxy has ended",
                source: std::io::ErrorKind::BrokenPipe.into(),
            })
        })
    }

    /// Begins to drain as on SIGTERM: not ready, no new connections, ends when idle or at the drain time.
    pub fn drain(&self) {
        self.tell(Command::Drain);
    }

    /// Ends at once.
    pub fn stop(&self) {
        self.tell(Command::Stop);
    }

    /// Waits until every thread has ended: by a signal, `/quitquitquit`, [`Self::drain`] or [`Self::stop`]. Blocks
    /// the thread.
    ///
    /// # Errors
    /// It ended because a static listener cannot serve.
    pub fn join(mut self) -> Result<(), StartError> {
        self.wait()
    }

    fn ask<T>(&self, command: impl FnOnce(SyncSender<T>) -> Command, limit: Duration) -> Option<T> {
        let (answer, answered) = sync_channel(1);
        self.tell(command(answer));
        answered.recv_timeout(limit).ok()
    }

    /// The queue is short and emptied at once; it is only closed, never full for long. Not `blocking_send`, which
    /// must not be called from within a runtime, as tests do.
    fn tell(&self, command: Command) {
        let mut command = command;
        while let Err(error) = self.commands.try_send(command) {
            match error {
                tokio::sync::mpsc::error::TrySendError::Closed(_) => return,
                tokio::sync::mpsc::error::TrySendError::Full(back) => command = back,
            }
            std::thread::yield_now();
        }
    }

    fn wait(&mut self) -> Result<(), StartError> {
        // A panic of the control thread was reported when it happened.
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or(Ok(()))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.stop();
            let _ = self.wait();
        }
    }
}
