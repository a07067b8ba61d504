//! Takes stages back that do not fare well: a proxy of the group refuses them, or one of their objects is set aside.

use crate::ads::Registry;
use crate::api::{Api, Withdrawn};
use crate::pipeline::Handle;
use crate::source::retry::Retry;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How often refusals are looked at while a stage is open. Short against what a proxy takes to apply a change, long against
/// what looking at some thousand proxies takes.
const EVERY: Duration = Duration::from_millis(200);

/// Watches until stopped.
pub(super) async fn keep(pipeline: Handle, nodes: Arc<Registry>, api: Api, stop: CancellationToken) {
    let mut views = pipeline.watch();
    let mut retry = Retry::default();
    loop {
        let opened = async { views.wait_for(|view| !view.stages.is_empty()).await.map(|view| view.clone()) };
        let view = tokio::select! {
            view = opened => match view {
                Ok(view) => view,
                Err(_) => return,
            },
            () = stop.cancelled() => return,
        };
        let standing = nodes.standing();
        for stage in view.stages.values() {
            let Some(reason) = stage.fault(&standing) else { continue };
            let (release, group) = (stage.release(), stage.group());
            match api.withdraw(stage, &reason).await {
                Ok(Withdrawn::ByUs) => {
                    retry.reset();
                    info!(release, group, reason, "stage withdrawn");
                }
                Ok(Withdrawn::BySomebody) => {}
                Err(error) => {
                    warn!(release, group, reason, %error, "stage cannot be withdrawn; tried again");
                    if !retry.wait(&stop).await {
                        return;
                    }
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stop.cancelled() => return,
        }
    }
}
