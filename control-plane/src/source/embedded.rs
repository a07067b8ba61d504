//! The embedded store: one file (redb), watched from within the process. The default: nothing else to run.

use super::keys::{self, Key};
use super::store::{Store, StoreError, Write};
use super::{Event, Gone, Held, Sender, SourceId};
use crate::model::{Instance, InstanceId, Object, ServiceName};
use futures_util::future::BoxFuture;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// Key to (revision, text): objects, and records of releases.
const OBJECTS: TableDefinition<'_, &str, (u64, &str)> = TableDefinition::new("objects");
/// Key to (time to live in milliseconds, 0 for none; JSON).
const INSTANCES: TableDefinition<'_, &str, (u64, &str)> = TableDefinition::new("instances");
/// The revision of the newest write, under the empty key.
const REVISION: TableDefinition<'_, &str, u64> = TableDefinition::new("revision");
/// Least time to live granted.
const MIN_TTL: Duration = Duration::from_secs(1);

/// The store could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("embedded store {path} cannot be opened")]
pub struct OpenError {
    path: String,
    #[source]
    source: redb::Error,
}

/// The embedded store.
pub struct Embedded {
    id: SourceId,
    database: Arc<Database>,
    /// Held over commit and send, so that events go out in the order of their revisions.
    state: Mutex<State>,
    /// Wakes the expiry loop when a deadline may have come nearer.
    leases_changed: Notify,
}

#[derive(Default)]
struct State {
    events: Option<Sender>,
    leases: BTreeMap<(ServiceName, InstanceId), Lease>,
}

struct Lease {
    ttl: Duration,
    expires: Instant,
}

impl Embedded {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// The file cannot be opened, is locked by another process, or is damaged.
    pub fn open(id: SourceId, path: &Path) -> Result<Self, OpenError> {
        let open = || -> Result<Database, redb::Error> {
            let database = Database::create(path)?;
            let tx = database.begin_write()?;
            tx.open_table(OBJECTS)?;
            tx.open_table(INSTANCES)?;
            tx.open_table(REVISION)?;
            tx.commit()?;
            Ok(database)
        };
        let database = open().map_err(|source| OpenError { path: path.display().to_string(), source })?;
        Ok(Self { id, database: Arc::new(database), state: Mutex::default(), leases_changed: Notify::new() })
    }

    fn unavailable(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
        StoreError::Unavailable { store: self.id.clone(), source: source.into() }
    }

    /// Runs a transaction off the runtime's threads, since it waits for the disk.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T, StoreError> {
        let database = Arc::clone(&self.database);
        match tokio::task::spawn_blocking(move || work(&database)).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(Failed::Store(error))) => Err(error),
            Ok(Err(Failed::Database(error))) => Err(self.unavailable(error)),
            Err(error) => Err(self.unavailable(error)),
        }
    }

    async fn list(&self) -> Result<(Held, Vec<(ServiceName, InstanceId, Duration)>), StoreError> {
        self.blocking(|database| {
            let tx = database.begin_read()?;
            let mut held = Held::default();
            let mut ttls = Vec::new();
            for entry in tx.open_table(OBJECTS)?.iter()? {
                let (key, value) = entry?;
                match Key::parse(key.value()) {
                    Ok(Key::Object(object)) => {
                        held.objects.push(Object::stored(object, value.value().0, value.value().1));
                    }
                    Ok(Key::Release(_)) => {}
                    Ok(Key::Instance(..)) | Err(_) => {
                        warn!(key = key.value(), "not the key of an object; ignored");
                    }
                }
            }
            for entry in tx.open_table(INSTANCES)?.iter()? {
                let (key, value) = entry?;
                let (ttl, text) = value.value();
                let read = Key::parse(key.value()).and_then(|k| match k {
                    Key::Instance(service, id) => keys::read_instance(service, id, text.as_bytes()),
                    Key::Object(_) | Key::Release(_) => Err(keys::Malformed::Key),
                });
                match read {
                    Ok(instance) => {
                        if ttl > 0 {
                            let ttl = Duration::from_millis(ttl);
                            ttls.push((instance.service.clone(), instance.id.clone(), ttl));
                        }
                        held.instances.push(instance);
                    }
                    Err(reason) => warn!(key = key.value(), %reason, "instance ignored"),
                }
            }
            Ok((held, ttls))
        })
        .await
    }

    async fn remove_instance(&self, service: &ServiceName, id: &InstanceId) -> Result<bool, StoreError> {
        let key = keys::instance_key(service, id);
        self.blocking(move |database| {
            let tx = database.begin_write()?;
            let existed = tx.open_table(INSTANCES)?.remove(&*key)?.is_some();
            tx.commit()?;
            Ok(existed)
        })
        .await
    }

    /// Removes what has expired. Answers when to look again.
    async fn expire(&self) -> Option<Instant> {
        let mut state = self.state.lock().await;
        let now = Instant::now();
        let due: Vec<_> =
            state.leases.iter().filter(|(_, l)| l.expires <= now).map(|(key, _)| key.clone()).collect();
        for (service, id) in due {
            match self.remove_instance(&service, &id).await {
                Ok(_) => {
                    info!(%service, %id, "instance expired");
                    state.leases.remove(&(service.clone(), id.clone()));
                    let (source, why) = (self.id.clone(), Gone::Lost);
                    state.send(Event::RemoveInstance { source, service, id, why }).await;
                }
                Err(error) => {
                    error!(%service, %id, error = &error as &dyn std::error::Error, "expired instance stays");
                    return Some(now + MIN_TTL);
                }
            }
        }
        state.leases.values().map(|l| l.expires).min()
    }
}

impl State {
    async fn send(&self, event: Event) {
        if let Some(events) = &self.events {
            // The pipeline is gone only when the process ends.
            let _ = events.send(event).await;
        }
    }
}

impl Store for Embedded {
    fn id(&self) -> &SourceId {
        &self.id
    }

    fn watch<'a>(&'a self, events: Sender, stop: CancellationToken) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let mut retry = super::retry::Retry::default();
            loop {
                let mut state = self.state.lock().await;
                match self.list().await {
                    Ok((held, ttls)) => {
                        // Nobody could renew while the process was down: every lease gets its whole time again.
                        let now = Instant::now();
                        state.leases = ttls
                            .into_iter()
                            .map(|(service, id, ttl)| ((service, id), Lease { ttl, expires: now + ttl }))
                            .collect();
                        state.events = Some(events.clone());
                        state.send(Event::Resync { source: self.id.clone(), held }).await;
                        break;
                    }
                    Err(error) => {
                        error!(error = &error as &dyn std::error::Error, "embedded store unreadable")
                    }
                }
                drop(state);
                if !retry.wait(&stop).await {
                    return;
                }
            }
            loop {
                let next = self.expire().await;
                let due = async {
                    match next {
                        Some(at) => tokio::time::sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = due => {}
                    () = self.leases_changed.notified() => {}
                    () = stop.cancelled() => return,
                }
            }
        })
    }

    fn write(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<Vec<u64>, StoreError>> {
        Box::pin(async move {
            let state = self.state.lock().await;
            let kept = writes.clone();
            let revisions = self.blocking(move |database| commit(database, &writes)).await?;
            for (write, revision) in kept.into_iter().zip(&revisions) {
                let source = self.id.clone();
                let Key::Object(key) = write.key else { continue };
                state
                    .send(match write.text {
                        Some(text) => {
                            Event::UpsertObject { source, object: Object::stored(key, *revision, &text) }
                        }
                        None => Event::RemoveObject { source, key },
                    })
                    .await;
            }
            Ok(revisions)
        })
    }

    fn release_numbers(&self) -> BoxFuture<'_, Result<Vec<u64>, StoreError>> {
        Box::pin(self.blocking(|database| {
            let objects = database.begin_read()?.open_table(OBJECTS)?;
            let mut found = Vec::new();
            for entry in objects.range(keys::RELEASES..)? {
                found.extend(release_of(entry?.0.value()));
            }
            Ok(found)
        }))
    }

    fn releases(&self) -> BoxFuture<'_, Result<Vec<(u64, String)>, StoreError>> {
        Box::pin(self.blocking(|database| {
            let objects = database.begin_read()?.open_table(OBJECTS)?;
            let mut found = Vec::new();
            for entry in objects.range(keys::RELEASES..)? {
                let (key, value) = entry?;
                found.extend(release_of(key.value()).map(|n| (n, value.value().1.to_owned())));
            }
            Ok(found)
        }))
    }

    fn register(
        &self,
        instance: Instance,
        ttl: Option<Duration>,
    ) -> BoxFuture<'_, Result<Option<Duration>, StoreError>> {
        Box::pin(async move {
            let ttl = ttl.map(|t| t.max(MIN_TTL));
            let mut state = self.state.lock().await;
            let key = keys::instance_key(&instance.service, &instance.id);
            let text = keys::write_instance(&instance);
            let millis = ttl.map_or(0, |t| t.as_millis() as u64);
            self.blocking(move |database| {
                let tx = database.begin_write()?;
                tx.open_table(INSTANCES)?.insert(&*key, (millis, &*text))?;
                tx.commit()?;
                Ok(())
            })
            .await?;
            let lease = (instance.service.clone(), instance.id.clone());
            match ttl {
                Some(ttl) => state.leases.insert(lease, Lease { ttl, expires: Instant::now() + ttl }),
                None => state.leases.remove(&lease),
            };
            state.send(Event::UpsertInstance { source: self.id.clone(), instance }).await;
            self.leases_changed.notify_one();
            Ok(ttl)
        })
    }

    fn renew(
        &self,
        service: ServiceName,
        id: InstanceId,
    ) -> BoxFuture<'_, Result<Option<Duration>, StoreError>> {
        Box::pin(async move {
            let mut state = self.state.lock().await;
            let lease = (service, id);
            if let Some(held) = state.leases.get_mut(&lease) {
                held.expires = Instant::now() + held.ttl;
                return Ok(Some(held.ttl));
            }
            let (service, id) = lease;
            let key = keys::instance_key(&service, &id);
            let exists = self
                .blocking(move |database| {
                    Ok(database.begin_read()?.open_table(INSTANCES)?.get(&*key)?.is_some())
                })
                .await?;
            if exists { Ok(None) } else { Err(StoreError::NoInstance { service, id }) }
        })
    }

    fn deregister(&self, service: ServiceName, id: InstanceId) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let mut state = self.state.lock().await;
            if !self.remove_instance(&service, &id).await? {
                return Err(StoreError::NoInstance { service, id });
            }
            state.leases.remove(&(service.clone(), id.clone()));
            let (source, why) = (self.id.clone(), Gone::Asked);
            state.send(Event::RemoveInstance { source, service, id, why }).await;
            Ok(())
        })
    }
}

fn release_of(key: &str) -> Option<u64> {
    match Key::parse(key) {
        Ok(Key::Release(number)) => Some(number),
        _ => None,
    }
}

fn commit(database: &Database, writes: &[Write]) -> Result<Vec<u64>, Failed> {
    let tx = database.begin_write()?;
    let mut revisions = Vec::with_capacity(writes.len());
    {
        let mut meta = tx.open_table(REVISION)?;
        let mut objects = tx.open_table(OBJECTS)?;
        let revision = meta.get("")?.map_or(0, |r| r.value()) + 1;
        for write in writes {
            let key = keys::path(&write.key);
            let stored = objects.get(&*key)?.map_or(0, |v| v.value().0);
            if write.expected.is_some_and(|expected| expected != stored) {
                return Err(Failed::Store(StoreError::Conflict(write.key.clone())));
            }
            match &write.text {
                Some(text) => {
                    objects.insert(&*key, (revision, &**text))?;
                    revisions.push(revision);
                }
                None => {
                    objects.remove(&*key)?;
                    revisions.push(0);
                }
            }
        }
        meta.insert("", revision)?;
    }
    tx.commit()?;
    Ok(revisions)
}

/// Why a transaction was given up.
enum Failed {
    Store(StoreError),
    Database(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Database(error.into())
    }
}

#[cfg(test)]
mod tests;
