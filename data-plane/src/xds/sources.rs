//! The tasks that read, one a source; they follow what is wanted.

use super::wanted::{Interests, SourceKey};
use super::{Xds, file, stream};
use data_plane_core::config::GrpcSource;
use tokio::sync::watch;
use tokio::task::{AbortHandle, spawn_local};

/// A task that ends with its owner.
#[derive(Debug)]
pub(super) struct Owned(AbortHandle);

impl Owned {
    pub(super) fn new(task: AbortHandle) -> Self {
        Self(task)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Debug)]
struct Source {
    key: SourceKey,
    interests: watch::Sender<Interests>,
    _task: Owned,
}

/// Every source being read.
#[derive(Debug, Default)]
pub(super) struct Sources(Vec<Source>);

impl Sources {
    /// Tells each source what is wanted of it; starts new ones and ends those of which nothing is.
    pub(super) fn follow(&mut self, xds: &Xds, ads: Option<&GrpcSource>, plan: Vec<(SourceKey, Interests)>) {
        self.0.retain(|source| plan.iter().any(|(key, _)| *key == source.key));
        for (key, wanted) in plan {
            match self.0.iter().find(|source| source.key == key) {
                Some(source) => {
                    source.interests.send_if_modified(|now| {
                        let changed = *now != wanted;
                        *now = wanted;
                        changed
                    });
                }
                None => {
                    let (interests, seen) = watch::channel(wanted);
                    let xds = xds.clone();
                    let task = match key.clone() {
                        SourceKey::Ads => {
                            // Translation refuses `ads: {}` without an `ads_config`.
                            let Some(ads) = ads.cloned() else { continue };
                            spawn_local(stream::run(xds, key.clone(), ads, None, seen))
                        }
                        SourceKey::Grpc(source, kind) => {
                            spawn_local(stream::run(xds, key.clone(), source, Some(kind), seen))
                        }
                        SourceKey::File { path, watched_directory, kind } => {
                            spawn_local(file::run(xds, key.clone(), path, watched_directory, kind, seen))
                        }
                    };
                    self.0.push(Source { key, interests, _task: Owned(task.abort_handle()) });
                }
            }
        }
    }

    /// Ends all of them.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
