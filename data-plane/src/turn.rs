//! The time, read once for each turn of a worker's loop.
//!
//! A worker sleeps until sockets or timers are ready, then does all that there is to do: for what happens within such a
//! turn one reading is enough. Threads whose runtime does not call [`begin`] read the clock each time.

use std::cell::Cell;
use tokio::time::Instant;

/// Most uses of one reading. Turns are long where a thread has more work than time: these are about as many as a few requests
/// take, so that a reading is some tens of microseconds old, or as old as the longest handshake between them.
const USES: u32 = 16;

thread_local! {
    static TURN: Cell<Turn> = const { Cell::new(Turn { read: None, uses: 0, counted: false }) };
}

#[derive(Clone, Copy)]
struct Turn {
    read: Option<Instant>,
    uses: u32,
    /// Someone says when turns begin.
    counted: bool,
}

/// A turn of this thread's loop begins.
pub fn begin() {
    TURN.set(Turn { read: None, uses: 0, counted: true });
}

/// The time at which this thread's turn began, or not much later.
pub fn now() -> Instant {
    let turn = TURN.get();
    match turn.read.filter(|_| turn.uses < USES) {
        Some(now) => {
            TURN.set(Turn { uses: turn.uses + 1, ..turn });
            now
        }
        None => {
            let now = Instant::now();
            TURN.set(Turn { read: turn.counted.then_some(now), uses: 1, ..turn });
            now
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::advance;

    const STEP: Duration = Duration::from_millis(5);

    #[tokio::test(start_paused = true)]
    async fn a_turn_reads_the_clock_once_and_the_next_one_again() {
        let start = now();
        advance(STEP).await;
        assert_eq!(now(), start + STEP, "nobody said that a turn began");
        begin();
        let first = now();
        advance(STEP).await;
        assert_eq!(now(), first);
        begin();
        assert_eq!(now(), first + STEP);
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_turn_reads_the_clock_again() {
        begin();
        let first = now();
        advance(STEP).await;
        let stale = std::iter::repeat_with(now).take_while(|now| *now == first).count();
        assert_eq!(stale, USES as usize - 1);
        assert_eq!(now(), first + STEP);
    }
}
