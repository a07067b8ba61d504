//! Owned tasks and the signals they end by.
//!
//! Every worker and the control thread hold a [`Shutdown`]; tasks watch it instead of being detached.

use tokio::sync::watch;

/// How far the process has gone in ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serving.
    Running,
    /// No new connections; existing ones are told to close.
    Draining,
    /// Everything ends now.
    Stopped,
}

/// The sending side: one per process or test proxy.
#[derive(Debug)]
pub struct ShutdownTrigger(watch::Sender<Phase>);

/// The watching side.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<Phase>);

/// A trigger and what watches it.
pub fn shutdown() -> (ShutdownTrigger, Shutdown) {
    let (tx, rx) = watch::channel(Phase::Running);
    (ShutdownTrigger(tx), Shutdown(rx))
}

impl ShutdownTrigger {
    /// Moves to `phase`; never back.
    pub fn advance(&self, phase: Phase) {
        self.0.send_if_modified(|now| {
            let forward = phase > *now;
            if forward {
                *now = phase;
            }
            forward
        });
    }
}

impl Shutdown {
    /// Where we are.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Whether there may be another phase than when this was made; then it stays so. Cheaper than
    /// [`Shutdown::phase`].
    pub fn has_moved(&self) -> bool {
        self.0.has_changed().unwrap_or(true)
    }

    /// Ends once `phase` or a later one is reached, also when the trigger is gone.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn reached(&mut self, phase: Phase) {
        let _ = self.0.wait_for(|now| *now >= phase).await;
    }
}
