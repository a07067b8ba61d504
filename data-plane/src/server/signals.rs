//! What the process does on signals.

use super::control::Control;
use std::rc::Rc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info};

/// SIGTERM drains (a second one ends at once), SIGINT ends at once, SIGHUP reads the bootstrap again, SIGUSR1
/// reopens logs.
pub(super) async fn serve(control: Rc<Control>) {
    let all = (|| {
        Ok::<_, std::io::Error>([
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
            signal(SignalKind::hangup())?,
            signal(SignalKind::user_defined1())?,
        ])
    })();
    let [mut terminate, mut interrupt, mut hangup, mut reopen]: [Signal; 4] = match all {
        Ok(all) => all,
        Err(error) => return error!(%error, "signals are not handled"),
    };
    loop {
        // Receiving is cancel safe.
        tokio::select! {
            Some(()) = terminate.recv() => {
                info!("caught SIGTERM");
                if control.is_ending() { control.stop() } else { control.drain() }
            }
            Some(()) = interrupt.recv() => {
                info!("caught SIGINT");
                control.stop();
            }
            Some(()) = hangup.recv() => {
                info!("caught SIGHUP");
                control.reread();
            }
            Some(()) = reopen.recv() => control.reopen_logs(),
        }
    }
}
