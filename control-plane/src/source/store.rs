//! What a source that can also be written offers the API.

use super::Sender;
use super::keys::Key;
use crate::model::{Instance, InstanceId, ServiceName, SourceId};
use futures_util::future::BoxFuture;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A write of one object, or of the record of a release; several are applied together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Which object or record. Instances are not written so.
    pub key: Key,
    /// Its text; `None` deletes it.
    pub text: Option<String>,
    /// Write only if the stored revision is this; 0: only if there is none. `None`: in any case.
    pub expected: Option<u64>,
}

/// Why a store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The revision of what was to be written is not the expected one.
    #[error("{0} has changed since it was read")]
    Conflict(Key),
    /// No such instance, or it has expired.
    #[error("no instance {id} of {service}")]
    NoInstance {
        /// Its service.
        service: ServiceName,
        /// Its id.
        id: InstanceId,
    },
    /// This source cannot be written.
    #[error("{0} cannot be written")]
    ReadOnly(SourceId),
    /// The store cannot take it.
    #[error("{0}")]
    Refused(String),
    /// The store is away; nothing was written, or it is not known whether it was.
    #[error("store {store} is not reachable")]
    Unavailable {
        /// Which store.
        store: SourceId,
        /// What the connection said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// An error with all its causes, in one line.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !told.contains(&more) {
            told = format!("{told}: {more}");
        }
        cause = error.source();
    }
    told
}

/// A store of objects and instances that can be watched; some can be written.
pub trait Store: Send + Sync {
    /// Who its events come from.
    fn id(&self) -> &SourceId;

    /// Tells all it holds and then every change, over losses and restarts of the store, until cancelled.
    fn watch<'a>(&'a self, events: Sender, stop: CancellationToken) -> BoxFuture<'a, ()>;

    /// Applies all writes or none. Answers the new revisions, 0 for what was deleted.
    fn write(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<Vec<u64>, StoreError>> {
        drop(writes);
        Box::pin(async { Err(StoreError::ReadOnly(self.id().clone())) })
    }

    /// Numbers of the releases that there are records of, in order.
    fn release_numbers(&self) -> BoxFuture<'_, Result<Vec<u64>, StoreError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// Every record of a release, in the order of their numbers.
    fn releases(&self) -> BoxFuture<'_, Result<Vec<(u64, String)>, StoreError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// Registers or replaces an instance; with a time to live it is gone unless renewed. Answers the time
    /// granted, which may be longer than asked.
    fn register(
        &self,
        instance: Instance,
        ttl: Option<Duration>,
    ) -> BoxFuture<'_, Result<Option<Duration>, StoreError>> {
        drop((instance, ttl));
        Box::pin(async { Err(StoreError::ReadOnly(self.id().clone())) })
    }

    /// Renews an instance's time to live and answers it; `None` when it has none, or the store does not tell.
    fn renew(
        &self,
        service: ServiceName,
        id: InstanceId,
    ) -> BoxFuture<'_, Result<Option<Duration>, StoreError>> {
        drop((service, id));
        Box::pin(async { Err(StoreError::ReadOnly(self.id().clone())) })
    }

    /// Removes an instance.
    fn deregister(&self, service: ServiceName, id: InstanceId) -> BoxFuture<'_, Result<(), StoreError>> {
        drop((service, id));
        Box::pin(async { Err(StoreError::ReadOnly(self.id().clone())) })
    }
}
