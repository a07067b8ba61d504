//! Waiting for a condition, with a deadline and a reason.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Time a condition has unless a test says otherwise. Generous: CI has two busy cores.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks `probe` again and again until it gives a value.
///
/// # Panics
/// When [`PATIENCE`] is over; with `what` and the last reason `probe` gave.
pub async fn eventually<T, E: Display>(what: &str, mut probe: impl AsyncFnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match probe().await {
            Ok(value) => return value,
            Err(reason) if start.elapsed() > PATIENCE => {
                panic!("{what}: not within {PATIENCE:?}; last: {reason}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
