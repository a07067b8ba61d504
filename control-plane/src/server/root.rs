//! Makes the root of the built-in authority when something first needs it, once for all control planes on a store.

use crate::authority;
use crate::model::{Kind, ObjectKey, ObjectName};
use crate::pipeline::Handle;
use crate::secret::{AUTHORITY, seal};
use crate::source::retry::Retry;
use crate::source::store::{Store, StoreError, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use xds_types::portolan::config::v1::{Resource, resource::Spec};

/// How long a root that was just written has to come back by the store's watch.
const ARRIVAL: Duration = Duration::from_secs(10);

/// Watches until stopped.
pub(super) async fn keep(pipeline: Handle, store: Arc<dyn Store>, stop: CancellationToken) {
    let mut views = pipeline.watch();
    let mut retry = Retry::default();
    loop {
        let wanted =
            async { views.wait_for(|view| view.wants_root && view.world.is_synced()).await.map(drop) };
        tokio::select! {
            wanted = wanted => if wanted.is_err() { return },
            () = stop.cancelled() => return,
        }
        match make(&pipeline, &*store).await {
            Ok(()) => retry.reset(),
            Err(reason) => {
                warn!(reason, "the built-in authority cannot be made; tried again");
                if !retry.wait(&stop).await {
                    return;
                }
                continue;
            }
        }
        // Until it is seen, it must not be made again.
        let arrived = async { views.wait_for(|view| !view.wants_root).await.map(drop) };
        tokio::select! {
            arrived = tokio::time::timeout(ARRIVAL, arrived) => if arrived.is_err() {
                error!("the built-in authority is stored but not in force: see `portolan get secret {AUTHORITY}`");
                if !retry.wait(&stop).await {
                    return;
                }
            },
            () = stop.cancelled() => return,
        }
    }
}

async fn make(pipeline: &Handle, store: &dyn Store) -> Result<(), String> {
    let now = SystemTime::now();
    let trust = pipeline.trust();
    let secret = authority::generate(&trust.authority.trust_domain, now).map_err(|e| e.to_string())?;
    let name = ObjectName::new(AUTHORITY).map_err(|e| e.to_string())?;
    let key = ObjectKey::new(Kind::Secret, name);
    let mut resource =
        Resource { name: AUTHORITY.to_owned(), spec: Some(Spec::Secret(secret)), ..Resource::default() };
    let mut found = crate::model::Problems::default();
    seal(&trust.vault, &key, &mut resource, now, &mut found);
    if found.has_errors() {
        return Err(found.to_string());
    }
    let text = Some(xds_types::resource::to_json(&resource).to_string());
    // Of several control planes the first one's is everybody's.
    match store.write(vec![Write { key: key.into(), text, expected: Some(0) }]).await {
        Ok(_) => {
            info!(trust_domain = trust.authority.trust_domain, "made the root of the built-in authority");
            Ok(())
        }
        Err(StoreError::Conflict(_)) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
