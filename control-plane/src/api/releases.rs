//! Calls about releases: what there was, what differs, and going back.

use super::commit::{self, Cause, Next, Plan, Planned};
use super::{Api, ApiError, convert};
use crate::model::{Object, ObjectKey};
use crate::pipeline::View;
use crate::release::{Action, Gone, History, Outcome, Record, Text, diff};
use crate::source::store::StoreError;
use std::collections::BTreeMap;
use std::time::Duration;
use xds_types::portolan::api::v1;
use xds_types::portolan::config::v1::{Resource, StagedObject, resource::Spec};

/// How long a rollback waits to see what was written just before, before it takes it for a write past the API.
const ARRIVAL: Duration = Duration::from_secs(1);

impl From<Gone> for ApiError {
    fn from(gone: Gone) -> Self {
        match gone {
            Gone::Future(..) | Gone::Past(..) => Self::Unreachable(gone.to_string()),
        }
    }
}

/// An object before and after.
type Pair = (Text, Text);

impl Api {
    /// The releases kept, and what the next one is.
    async fn kept_releases(&self) -> Result<(History, Next), ApiError> {
        let stored = self.stores().config.releases().await?;
        let numbers: Vec<u64> = stored.iter().map(|(number, _)| *number).collect();
        let mut records = Vec::new();
        for (number, text) in stored {
            match Record::decode(&text) {
                Ok(record) => records.push((number, record)),
                Err(reason) => {
                    tracing::warn!(number, %reason, "not shown, and nothing before it can be gone back to");
                    records.clear();
                }
            }
        }
        Ok((History::new(records), Next::after(&numbers, self.history_kept())))
    }

    /// The releases kept, the newest first.
    ///
    /// # Errors
    /// The store is away.
    pub async fn history(&self, r: &v1::HistoryRequest) -> Result<v1::HistoryResponse, ApiError> {
        let (history, _) = self.kept_releases().await?;
        let limit = if r.limit == 0 { usize::MAX } else { r.limit as usize };
        let newest = history.records().iter().rev().take(limit);
        let release = |(n, record): (&u64, &Record)| convert::release(*n, record, history.end_of(*n));
        Ok(v1::HistoryResponse { releases: newest.map(release).collect() })
    }

    /// What differs between two releases, a release and now, or now and given objects.
    ///
    /// # Errors
    /// A release is not kept; given objects are refused; the store is away.
    pub async fn diff(&self, r: v1::DiffRequest) -> Result<v1::DiffResponse, ApiError> {
        let found = if !r.stage.is_empty() {
            if r.from.is_some() || r.to.is_some() || !r.resources.is_empty() {
                return Err(ApiError::Invalid("a stage is compared with what is stored now".to_owned()));
            }
            self.diff_stage(&r.stage)?
        } else if r.resources.is_empty() {
            self.diff_releases(r.from.map(|n| n.value), r.to.map(|n| n.value)).await?
        } else if r.from.is_some() || r.to.is_some() {
            return Err(ApiError::Invalid("given objects are compared with what is stored now".to_owned()));
        } else {
            let mut resources = r.resources;
            let keys = super::write::keys(&resources)?;
            self.seal(&keys, &mut resources)?;
            let view = self.view();
            let pair = |(key, resource): (ObjectKey, &Resource)| {
                let stored = commit::text(self.stored(&view, &key).as_deref());
                (key, (stored, Text::Is(commit::json(resource))))
            };
            keys.into_iter().zip(&resources).map(pair).collect()
        };
        let diffs = found.iter().filter_map(|(key, (old, new))| object_diff(key, old, new));
        Ok(v1::DiffResponse { diffs: diffs.collect() })
    }

    fn diff_stage(&self, group: &str) -> Result<BTreeMap<ObjectKey, Pair>, ApiError> {
        let view = self.view();
        let stage = view.stages.get(group);
        let stage = stage.ok_or_else(|| ApiError::NotFound(format!("stage of group {group}")))?;
        let objects = stage.stage.stage().map_or(&[][..], |s| &s.objects);
        let pair = |staged: &StagedObject| {
            let key: ObjectKey = staged.object.parse().ok()?;
            let stored = commit::text(self.stored(&view, &key).as_deref());
            let after = if staged.deleted { Text::Absent } else { Text::Is(staged.text.clone()) };
            Some((key, (stored, after)))
        };
        Ok(objects.iter().filter_map(pair).collect())
    }

    async fn diff_releases(
        &self,
        from: Option<u64>,
        to: Option<u64>,
    ) -> Result<BTreeMap<ObjectKey, Pair>, ApiError> {
        let (history, _) = self.kept_releases().await?;
        let Some(from) = from.or_else(|| history.before_newest()) else { return Ok(BTreeMap::new()) };
        history.reaches(from)?;
        let Some(to) = to else {
            let view = self.view();
            let now = |key: &ObjectKey| commit::text(self.stored(&view, key).as_deref());
            let pair = |(key, text): (&ObjectKey, &Text)| (key.clone(), (text.clone(), now(key)));
            return Ok(history.before(from).into_iter().map(pair).collect());
        };
        history.reaches(to)?;
        let pairs = history.between(from.min(to), from.max(to)).into_iter();
        Ok(pairs
            .map(|(key, (old, new))| {
                let (old, new) = if from <= to { (old, new) } else { (new, old) };
                (key.clone(), (old.clone(), new.clone()))
            })
            .collect())
    }

    /// Undoes every release after one, as a new release.
    ///
    /// # Errors
    /// The release is not kept; it is refused as [`Api::apply`] refuses; something changed meanwhile, or was changed in the
    /// store directly; the store is away.
    pub async fn rollback(&self, by: &str, r: v1::RollbackRequest) -> Result<v1::RollbackResponse, ApiError> {
        let (history, next) = self.kept_releases().await?;
        let newest = history.newest();
        if let Some(expected) = r.if_newest.map(|n| n.value).filter(|n| *n != newest) {
            return Err(ApiError::Conflict(format!("release {newest} is the newest, not {expected}")));
        }
        let to = match r.to {
            Some(to) => to.value,
            None => history
                .before_newest()
                .ok_or_else(|| ApiError::Unreachable("there is no release to undo".to_owned()))?,
        };
        history.reaches(to)?;
        let targets = history.before(to);
        if !r.force {
            // What another control plane has just written may not have come here yet.
            let views = &mut self.pipeline().watch();
            let clean = views.wait_for(|view| self.written_directly(view, &history, &targets).is_empty());
            let _ = tokio::time::timeout(ARRIVAL, clean).await;
        }
        let view = self.view();
        let direct = self.written_directly(&view, &history, &targets);
        if !direct.is_empty() && !r.force {
            let told = direct.join(", ");
            let told = format!(
                "{told}: changed in the store directly since the last release; `force` overwrites that"
            );
            return Err(ApiError::Conflict(told));
        }

        let planned = self.undoing(&view, &targets, to)?;
        let writes = planned.iter().filter_map(|(_, resource)| resource.clone()).collect();
        let deletes = planned.iter().filter(|(p, _)| p.text.is_none()).map(|(p, _)| p.key.clone()).collect();
        let planned: Vec<Planned> = planned.into_iter().map(|(p, _)| p).collect();
        let warnings = match planned.is_empty() {
            true => Vec::new(),
            false => self.admit(writes, deletes).await?,
        };
        let mut changed: Vec<v1::Applied> = planned
            .iter()
            .map(|p| v1::Applied { object: p.key.to_string(), revision: 0, outcome: p.outcome().into() })
            .collect();
        if planned.is_empty() || r.dry_run {
            return Ok(v1::RollbackResponse { release: 0, to, changed, warnings });
        }
        let cause = Cause { of: Some(to), ..Cause::new(by, &r.message, Action::Rollback)? };
        // Had there been a release since the history was read, its number would be taken.
        let plan = Plan::of(planned.clone());
        let committed = self.commit(&cause, &next, plan).await.map_err(|error| match error {
            StoreError::Conflict(key) => {
                let told =
                    format!("{key} was written meanwhile; nothing was rolled back: see `portolan history`");
                ApiError::Conflict(told)
            }
            other => other.into(),
        })?;
        for (one, planned) in changed.iter_mut().zip(&planned) {
            one.revision = committed.revisions.get(&planned.key).copied().unwrap_or(0);
        }
        Ok(v1::RollbackResponse { release: committed.release, to, changed, warnings })
    }

    /// What makes each object what it was, as far as it is not that; with what is to be admitted.
    fn undoing(
        &self,
        view: &View,
        targets: &BTreeMap<&ObjectKey, &Text>,
        to: u64,
    ) -> Result<Vec<(Planned, Option<Resource>)>, ApiError> {
        let mut planned = Vec::new();
        for (key, target) in targets {
            let stored = self.stored(view, key);
            let lost = |how: &str| ApiError::Unreachable(format!("what {key} was at release {to} {how}"));
            let (text, resource) = match target {
                Text::Absent if stored.is_none() => continue,
                Text::Absent => (None, None),
                Text::Unreadable => return Err(lost("could not be read, and cannot be brought back")),
                Text::Is(text) => {
                    let resource = read(key, text).ok_or_else(|| lost("is not understood any more"))?;
                    if stored.as_ref().and_then(|o| o.resource()).is_some_and(|now| **now == resource) {
                        continue;
                    }
                    (Some(text.clone()), Some(resource))
                }
            };
            let key = (*key).clone();
            planned.push((Planned { key, text, stored, firm: true }, resource));
        }
        Ok(planned)
    }

    /// Objects to be rolled back that are not what the last release made of them.
    fn written_directly(
        &self,
        view: &View,
        history: &History,
        targets: &BTreeMap<&ObjectKey, &Text>,
    ) -> Vec<String> {
        let differs = |key: &ObjectKey| {
            let now = commit::text(self.stored(view, key).as_deref());
            history.written(key).is_some_and(|written| !is_same(key, written, &now))
        };
        targets.keys().filter(|key| differs(key)).map(ToString::to_string).collect()
    }
}

/// Whether two texts say the same.
fn is_same(key: &ObjectKey, a: &Text, b: &Text) -> bool {
    match (a, b) {
        (Text::Is(a), Text::Is(b)) => a == b || read(key, a).is_some_and(|a| read(key, b) == Some(a)),
        (a, b) => a == b,
    }
}

fn read(key: &ObjectKey, text: &str) -> Option<Resource> {
    Object::stored(key.clone(), 0, text).resource().map(|r| (**r).clone())
}

/// What differs of an object; `None` when nothing does.
fn object_diff(key: &ObjectKey, old: &Text, new: &Text) -> Option<v1::ObjectDiff> {
    if is_same(key, old, new) {
        return None;
    }
    let mut text = diff::unified(&shown(key, old), &shown(key, new));
    let holds = |text: &Text| match text {
        Text::Is(text) => read(key, text),
        Text::Absent | Text::Unreadable => None,
    };
    if let (Some(old), Some(new)) = (holds(old), holds(new))
        && sealed(&old) != sealed(&new)
    {
        text.push_str("# what it holds has changed; it is never shown\n");
    }
    let outcome = match (old, new) {
        (_, Text::Absent) => Outcome::Deleted,
        (Text::Absent, _) => Outcome::Created,
        _ => Outcome::Updated,
    };
    let outcome = commit::outcome(outcome).into();
    Some(v1::ObjectDiff { object: key.to_string(), outcome, text })
}

/// An object as people may see it.
fn shown(key: &ObjectKey, text: &Text) -> String {
    match text {
        Text::Absent => String::new(),
        Text::Unreadable => "# cannot be read\n".to_owned(),
        Text::Is(text) => match read(key, text) {
            Some(resource) => xds_types::resource::to_yaml(&super::tokens::without_secrets(&resource)),
            None => "# not understood any more\n".to_owned(),
        },
    }
}

/// The encrypted part of a Secret.
fn sealed(resource: &Resource) -> Option<&[u8]> {
    use xds_types::portolan::config::v1::secret::From;
    match &resource.spec {
        Some(Spec::Secret(secret)) => match &secret.from {
            Some(From::Sealed(sealed)) => Some(&sealed.ciphertext),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Kind, ObjectName};
    use serde_json::json;

    fn key(kind: Kind) -> ObjectKey {
        ObjectKey::new(kind, ObjectName::new("shop").unwrap())
    }

    fn secret(key_id: &str, ciphertext: &str) -> Text {
        let sealed =
            json!({"key_id": key_id, "nonce": "bm9uY2U=", "ciphertext": ciphertext, "holds": "value"});
        Text::Is(json!({"kind": "Secret", "name": "shop", "spec": {"sealed": sealed}}).to_string())
    }

    #[test]
    fn a_diff_says_that_a_secret_changed_and_shows_nothing_of_it() {
        let (old, new) = (secret("k1", "b2xkLXNlYWxlZA=="), secret("k1", "bmV3LXNlYWxlZA=="));
        let shown = object_diff(&key(Kind::Secret), &old, &new).unwrap();
        assert_eq!(shown.text, "# what it holds has changed; it is never shown\n");
        let made = object_diff(&key(Kind::Secret), &Text::Absent, &new).unwrap();
        assert!(made.text.contains("+name: shop") && !made.text.contains("bmV3"), "{}", made.text);
        assert_eq!(object_diff(&key(Kind::Secret), &old, &old), None);
    }

    #[test]
    fn a_diff_shows_the_fields_that_changed() {
        let service = |protocol: &str| {
            Text::Is(json!({"kind": "Service", "name": "shop", "spec": {"protocol": protocol}}).to_string())
        };
        let shown = object_diff(&key(Kind::Service), &service("HTTP1"), &service("HTTP2")).unwrap();
        assert_eq!(shown.object, "Service/shop");
        assert!(shown.text.contains("\n+  protocol: HTTP2\n"), "{}", shown.text);
        // Written otherwise, it says the same.
        let spaced = Text::Is("{kind: Service, name: shop, spec: {protocol: HTTP2}}".to_owned());
        assert_eq!(object_diff(&key(Kind::Service), &service("HTTP2"), &spaced), None);
    }
}
