//! How every change of objects is written: with the record of its release, in one transaction.
//!
//! Each write expects the revision that the plan was made from, and the record that its number is free: of two changes at
//! once, by one control plane or by two, one writes and the other plans anew or gives up.

use super::{Api, ApiError};
use crate::model::{Content, Object, ObjectKey};
use crate::pipeline::View;
use crate::release::{self, Action, Change, Outcome, Record, Text};
use crate::source::keys::Key;
use crate::source::store::{StoreError, Write};
use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;
use xds_types::portolan::api::v1;
use xds_types::portolan::config::v1::Resource;

/// How long a change is planned anew while others come before it.
const CONTENTION: Duration = Duration::from_secs(5);
/// How long a plan that came too late waits for what came before it to be seen.
const CATCH_UP: Duration = Duration::from_millis(200);
/// Records collected with each release at most: more than one, so that a lowered `--history` comes into effect.
const COLLECTED: usize = 2;
/// Longest message, bytes.
const MAX_MESSAGE: usize = 1024;

/// Who makes a release, and why.
#[derive(Clone, Debug)]
pub(super) struct Cause {
    pub(super) by: String,
    pub(super) message: String,
    pub(super) action: Action,
    /// The release that it is about.
    pub(super) of: Option<u64>,
    /// The node group that it is about.
    pub(super) group: Option<String>,
}

impl Cause {
    pub(super) fn new(by: &str, message: &str, action: Action) -> Result<Self, ApiError> {
        if message.len() > MAX_MESSAGE {
            return Err(ApiError::Invalid(format!("message is longer than {MAX_MESSAGE} bytes")));
        }
        Ok(Self { by: by.to_owned(), message: message.to_owned(), action, of: None, group: None })
    }
}

/// What is to be written, and what the record says of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    writes: Vec<Planned>,
    /// `None`: no release is made of it.
    changes: Option<Vec<Change>>,
}

impl Plan {
    /// A release of these writes, as far as they are part of releases.
    pub(super) fn of(writes: Vec<Planned>) -> Self {
        let kept: Vec<Change> =
            writes.iter().filter(|p| release::is_kept(&p.key)).map(Planned::change).collect();
        let changes = (!kept.is_empty()).then_some(kept);
        Self { writes, changes }
    }

    /// A release that says something else than what is written.
    pub(super) fn told(writes: Vec<Planned>, changes: Vec<Change>) -> Self {
        Self { writes, changes: Some(changes) }
    }
}

/// What is to be answered, and what is to be written for it.
pub(super) type Planning<'p, T> = BoxFuture<'p, Result<(T, Plan), ApiError>>;

/// One write, and what it was planned from.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) key: ObjectKey,
    /// `None` deletes it.
    pub(super) text: Option<String>,
    /// What the store holds of it.
    pub(super) stored: Option<Arc<Object>>,
    /// It may take the place of nothing else: when that has changed, the whole is given up rather than planned anew.
    pub(super) firm: bool,
}

impl Planned {
    fn change(&self) -> Change {
        let after = self.text.clone().map_or(Text::Absent, Text::Is);
        Change { object: self.key.clone(), before: text(self.stored.as_deref()), after }
    }

    pub(super) fn outcome(&self) -> v1::applied::Outcome {
        outcome(self.change().outcome())
    }
}

/// What the next release is, and which records go with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Next {
    number: u64,
    collected: Vec<u64>,
}

impl Next {
    /// After releases of these numbers, in order, of which so many are kept with the next.
    pub(super) fn after(numbers: &[u64], kept: u64) -> Self {
        let number = numbers.last().copied().unwrap_or(0) + 1;
        let gone = numbers.iter().copied().take_while(|n| *n <= number.saturating_sub(kept));
        Self { number, collected: gone.take(COLLECTED).collect() }
    }
}

/// What was written.
#[derive(Clone, Debug, Default)]
pub(super) struct Committed {
    /// 0: nothing of it is part of releases.
    pub(super) release: u64,
    /// Of every object written; 0: deleted.
    pub(super) revisions: BTreeMap<ObjectKey, u64>,
}

/// What an object is, as records have it.
pub(super) fn text(object: Option<&Object>) -> Text {
    match object.map(|o| &o.content) {
        None => Text::Absent,
        Some(Content::Read(resource)) => Text::Is(json(resource)),
        Some(Content::Unreadable(_)) => Text::Unreadable,
    }
}

/// As objects are stored.
pub(super) fn json(resource: &Resource) -> String {
    xds_types::resource::to_json(resource).to_string()
}

pub(super) fn outcome(outcome: Outcome) -> v1::applied::Outcome {
    match outcome {
        Outcome::Created => v1::applied::Outcome::Created,
        Outcome::Updated => v1::applied::Outcome::Updated,
        Outcome::Deleted => v1::applied::Outcome::Deleted,
    }
}

impl Api {
    /// What the store that is written holds of an object.
    pub(super) fn stored(&self, view: &View, key: &ObjectKey) -> Option<Arc<Object>> {
        view.world.sources().get(self.stores().config.id())?.objects.get(key).cloned()
    }

    /// What the next release is.
    pub(super) async fn next_release(&self) -> Result<Next, StoreError> {
        Ok(Next::after(&self.stores().config.release_numbers().await?, self.history_kept()))
    }

    /// Writes all of it with the record of the release, or nothing.
    pub(super) async fn commit(
        &self,
        cause: &Cause,
        next: &Next,
        plan: Plan,
    ) -> Result<Committed, StoreError> {
        let store = &self.stores().config;
        let write = |p: &Planned| Write {
            key: p.key.clone().into(),
            text: p.text.clone(),
            expected: Some(p.stored.as_ref().map_or(0, |o| o.revision)),
        };
        let Plan { writes: planned, changes } = plan;
        let mut writes: Vec<Write> = planned.iter().map(write).collect();
        let release = changes.as_ref().map_or(0, |_| next.number);
        if let Some(mut changes) = changes {
            changes.sort_by(|a, b| a.object.cmp(&b.object));
            let Cause { by, message, action, of, group } = cause.clone();
            let record = Record { at: SystemTime::now(), by, message, action, of, group, changes };
            writes.push(Write {
                key: Key::Release(next.number),
                text: Some(record.encode()),
                expected: Some(0),
            });
            let collected = |number: &u64| Write { key: Key::Release(*number), text: None, expected: None };
            writes.extend(next.collected.iter().map(collected));
        }
        let revisions = store.write(writes).await?;
        let revisions = planned.iter().map(|p| p.key.clone()).zip(revisions).collect();
        let committed = Committed { release, revisions };
        self.settled(|view| self.shows(view, &committed)).await;
        Ok(committed)
    }

    /// Whether a view holds what was written, or what came after it.
    fn shows(&self, view: &View, committed: &Committed) -> bool {
        committed.revisions.iter().all(|(key, revision)| match (self.stored(view, key), revision) {
            (stored, 0) => stored.is_none(),
            (Some(stored), revision) => stored.revision >= *revision,
            (None, _) => false,
        })
    }

    /// Plans and commits until nothing comes between, for [`CONTENTION`] at most. An error of the plan ends it, and so does a
    /// conflict about a firm write.
    pub(super) async fn commit_anew<'p, T>(
        &self,
        cause: &Cause,
        plan: impl Fn(Arc<View>, u64) -> Planning<'p, T>,
    ) -> Result<(T, Committed), ApiError> {
        let until = Instant::now() + CONTENTION;
        loop {
            let mut views = self.pipeline().watch();
            let view = views.borrow_and_update().clone();
            let next = self.next_release().await?;
            let (answer, plan) = plan(view, next.number).await?;
            if plan.writes.is_empty() {
                return Ok((answer, Committed::default()));
            }
            let firm: Vec<ObjectKey> = plan.writes.iter().filter(|p| p.firm).map(|p| p.key.clone()).collect();
            match self.commit(cause, &next, plan).await {
                Ok(committed) => return Ok((answer, committed)),
                Err(StoreError::Conflict(Key::Object(key))) if firm.contains(&key) => {
                    return Err(StoreError::Conflict(Key::Object(key)).into());
                }
                Err(StoreError::Conflict(_)) if Instant::now() < until => {
                    let _ = tokio::time::timeout(CATCH_UP, views.changed()).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_records_go_the_oldest_first_and_a_few_at_a_time() {
        let next = |numbers: &[u64], kept| {
            let Next { number, collected } = Next::after(numbers, kept);
            (number, collected)
        };
        assert_eq!(next(&[], 3), (1, vec![]));
        assert_eq!(next(&[1, 2], 3), (3, vec![]));
        assert_eq!(next(&[1, 2, 3], 3), (4, vec![1]));
        assert_eq!(next(&[2, 3, 4], 3), (5, vec![2]));
        // Fewer are to be kept than before: what is too much shrinks with each release.
        assert_eq!(next(&[1, 2, 3, 4, 5, 6], 2), (7, vec![1, 2]));
        assert_eq!(next(&[3, 4, 5, 6, 7], 2), (8, vec![3, 4]));
    }
}
