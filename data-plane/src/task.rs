//! Owned tasks and the signals they end by.
//!
//! Every worker and the control thread hold a [`Shutdown`]; tasks watch it instead of being detached.

use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

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

/// How those concerned are told of draining.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// All at once.
    AtOnce,
    /// Each at a moment of its own within this time, so that not all clients connect anew together.
    Within(Duration),
}

/// What is told.
#[derive(Clone, Copy, Debug)]
struct Told {
    phase: Phase,
    /// Since when, and within what time, each is told to drain; `None`: all are told.
    spread: Option<(Instant, Duration)>,
}

/// The sending side: one per process or test proxy.
#[derive(Debug)]
pub struct ShutdownTrigger(watch::Sender<Told>);

/// The watching side.
#[derive(Clone, Debug)]
pub struct Shutdown {
    told: watch::Receiver<Told>,
    /// When in the time of a gradual drain this one is told: 0 at its begin, 1 at its end.
    turn: f32,
}

/// A trigger and what watches it.
pub fn shutdown() -> (ShutdownTrigger, Shutdown) {
    let (tx, told) = watch::channel(Told { phase: Phase::Running, spread: None });
    (ShutdownTrigger(tx), Shutdown { told, turn: 0.0 })
}

impl ShutdownTrigger {
    /// Moves to `phase`; never back.
    pub fn advance(&self, phase: Phase) {
        self.send(Told { phase, spread: None });
    }

    /// Moves to [`Phase::Draining`] at a pace. A drain under way may be hastened, not slowed down.
    pub fn drain(&self, pace: Pace) {
        let spread = match pace {
            Pace::AtOnce => None,
            Pace::Within(time) => Some((Instant::now(), time)),
        };
        self.send(Told { phase: Phase::Draining, spread });
    }

    fn send(&self, next: Told) {
        self.0.send_if_modified(|now| {
            let hastens = next.phase == now.phase && next.spread.is_none() && now.spread.is_some();
            let forward = next.phase > now.phase || hastens;
            if forward {
                *now = next;
            }
            forward
        });
    }
}

impl Shutdown {
    /// One that is told of a gradual drain after the share `turn`, from 0 to 1, of its time.
    #[must_use]
    pub fn at(&self, turn: f32) -> Self {
        Self { told: self.told.clone(), turn }
    }

    /// Where we are.
    pub fn phase(&self) -> Phase {
        let now = *self.told.borrow();
        match self.moment(now) {
            Some(moment) if Instant::now() < moment => Phase::Running,
            _ => now.phase,
        }
    }

    /// Whether an end has begun, though this one may not be told yet.
    pub fn has_begun(&self) -> bool {
        self.told.borrow().phase > Phase::Running
    }

    /// Whether something was told since this, or what it was cloned from, was made; then it stays so.
    pub fn has_changed(&self) -> bool {
        self.told.has_changed().unwrap_or(true)
    }

    /// Ends once `phase` or a later one is reached, also when the trigger is gone.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn reached(&mut self, phase: Phase) {
        let Ok(now) = self.told.wait_for(|now| now.phase >= phase).await.map(|now| *now) else { return };
        if phase != Phase::Draining {
            return;
        }
        if let Some(moment) = self.moment(now) {
            tokio::select! {
                () = tokio::time::sleep_until(moment) => {}
                // Hastened, stopped, or the trigger is gone.
                _ = self.told.wait_for(|now| now.spread.is_none()) => {}
            }
        }
    }

    /// When this one is told, where not all are.
    fn moment(&self, now: Told) -> Option<Instant> {
        now.spread.map(|(began, time)| began + time.mul_f32(self.turn))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_secs(100);

    #[tokio::test(start_paused = true)]
    async fn a_gradual_drain_is_told_to_each_at_its_turn() {
        let (trigger, shutdown) = shutdown();
        let (early, late) = (shutdown.at(0.25), shutdown.at(0.75));
        let began = Instant::now();
        trigger.drain(Pace::Within(TIME));
        assert_eq!([early.phase(), late.phase()], [Phase::Running; 2]);
        early.clone().reached(Phase::Draining).await;
        assert_eq!(
            (began.elapsed(), early.phase(), late.phase()),
            (TIME / 4, Phase::Draining, Phase::Running)
        );
        late.clone().reached(Phase::Draining).await;
        assert_eq!((began.elapsed(), late.phase()), (TIME / 4 * 3, Phase::Draining));
    }

    #[tokio::test(start_paused = true)]
    async fn a_gradual_drain_can_be_hastened_and_not_slowed_down() {
        let (trigger, shutdown) = shutdown();
        let mut late = shutdown.at(0.75);
        let began = Instant::now();
        trigger.drain(Pace::Within(TIME));
        let (told, ()) = tokio::join!(
            async {
                late.reached(Phase::Draining).await;
                began.elapsed()
            },
            async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                trigger.drain(Pace::AtOnce);
            }
        );
        assert_eq!(told, Duration::from_secs(1));
        trigger.drain(Pace::Within(TIME));
        assert_eq!(shutdown.at(1.0).phase(), Phase::Draining);
        trigger.advance(Phase::Stopped);
        assert_eq!(shutdown.at(1.0).phase(), Phase::Stopped);
        trigger.drain(Pace::AtOnce);
        assert_eq!(shutdown.phase(), Phase::Stopped, "never back");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_the_stop_waits_on_while_others_drain() {
        let (trigger, shutdown) = shutdown();
        let mut waits = shutdown.at(0.5);
        trigger.drain(Pace::Within(TIME));
        let waiting = tokio::time::timeout(TIME * 2, waits.reached(Phase::Stopped)).await;
        assert!(waiting.is_err());
        trigger.advance(Phase::Stopped);
        waits.reached(Phase::Stopped).await;
    }
}
