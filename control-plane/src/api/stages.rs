//! Calls about stages: a change that is active for one node group first, then for all or for none.
//!
//! A stage is an object beside those that it will replace, so that it lives in the store: every control plane serves it, and
//! whoever ends it does so by the revision that it has, once.

use super::commit::{self, Cause, Plan, Planned, Planning};
use super::write::Wanted;
use super::{Api, ApiError};
use crate::model::{Kind, Object, ObjectKey, ObjectName};
use crate::pipeline::{StageView, View};
use crate::release::{self, Action, Change, Text};
use std::sync::Arc;
use xds_types::portolan::api::v1;
use xds_types::portolan::config::v1::{Resource, Stage, StagedObject, resource::Spec};

/// What to say of objects that are written while they are staged.
pub(super) fn warnings<'a>(
    view: &View,
    written: impl IntoIterator<Item = &'a ObjectKey>,
) -> Vec<v1::Problem> {
    let written: Vec<String> = written.into_iter().map(ToString::to_string).collect();
    let mut found = Vec::new();
    for stage in view.stages.values() {
        let staged = stage.stage.stage().map_or(&[][..], |s| &s.objects);
        for key in written.iter().filter(|k| staged.iter().any(|o| o.object == **k)) {
            let (group, release) = (stage.group(), stage.release());
            let message =
                format!("is staged for group {group}: release {release} cannot be promoted any more");
            let severity = v1::problem::Severity::Warning.into();
            found.push(v1::Problem { object: key.clone(), message, severity, ..v1::Problem::default() });
        }
    }
    found
}

/// Who took a stage back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawn {
    /// This control plane.
    ByUs,
    /// Another one, or a person ended it before.
    BySomebody,
}

/// An open stage, as the store holds it.
struct Open {
    object: Arc<Object>,
    stage: Stage,
}

impl Api {
    /// Stages objects, and deletions, for one node group.
    pub(super) async fn stage(
        &self,
        mut cause: Cause,
        group: &str,
        wanted: &Wanted,
    ) -> Result<v1::ApplyResponse, ApiError> {
        let invalid =
            |e| ApiError::Invalid(format!("nothing can be staged for group `{group}`: its name {e}"));
        let name = ObjectName::new(group).map_err(invalid)?;
        let Wanted { keys, resources, deletes, sealed } = wanted;
        if let Some(key) = keys.iter().chain(deletes).find(|key| !release::is_kept(key)) {
            return Err(ApiError::Invalid(format!("{key} cannot be staged")));
        }
        cause.action = Action::Stage;
        cause.group = Some(group.to_owned());
        let own = ObjectKey::new(Kind::Stage, name);
        let own = &own;
        let plan = move |view: Arc<View>, number: u64| -> Planning<'_, _> {
            Box::pin(async move {
                if let Some(open) = self.stored(&view, own) {
                    let release = open.stage().map_or(0, |s| s.release);
                    let told =
                        format!("release {release} is staged for group {group}: promote or abort it first");
                    return Err(ApiError::Conflict(told));
                }
                let mut warnings = sealed.clone();
                warnings.extend(self.admit(resources.clone(), deletes.clone()).await?);
                if !self.nodes().nodes().iter().any(|(_, node)| node.group == group) {
                    let message = format!("no proxy of group {group} is connected here");
                    let severity = v1::problem::Severity::Warning.into();
                    warnings.push(v1::Problem { message, severity, ..v1::Problem::default() });
                }
                let (mut staged, mut changes, mut applied) = (Vec::new(), Vec::new(), Vec::new());
                for (key, resource) in keys.iter().zip(resources) {
                    let stored = self.stored(&view, key);
                    let base_revision = stored.as_ref().map_or(0, |o| o.revision);
                    let mut outcome = v1::applied::Outcome::Unchanged;
                    if stored.as_ref().and_then(|o| o.resource()).is_none_or(|r| **r != *resource) {
                        let text = commit::json(resource);
                        let before = commit::text(stored.as_deref());
                        let change = Change { object: key.clone(), before, after: Text::Is(text.clone()) };
                        outcome = commit::outcome(change.outcome());
                        changes.push(change);
                        let object = key.to_string();
                        staged.push(StagedObject { object, text, base_revision, deleted: false });
                    }
                    let object = key.to_string();
                    applied.push(v1::Applied { object, revision: base_revision, outcome: outcome.into() });
                }
                for key in deletes {
                    let stored = self.deletable(&view, key)?;
                    let (object, base_revision) = (key.to_string(), stored.revision);
                    let before = commit::text(Some(&stored));
                    let change = Change { object: key.clone(), before, after: Text::Absent };
                    let outcome = commit::outcome(change.outcome()).into();
                    changes.push(change);
                    applied.push(v1::Applied { object: object.clone(), revision: base_revision, outcome });
                    staged.push(StagedObject { object, base_revision, deleted: true, ..Default::default() });
                }
                let answer = v1::ApplyResponse { applied, warnings, release: 0 };
                if staged.is_empty() {
                    return Ok((answer, Plan::default()));
                }
                let spec = Some(Spec::Stage(Stage { release: number, objects: staged }));
                let stage = Resource { name: group.to_owned(), spec, ..Resource::default() };
                let text = Some(commit::json(&stage));
                let write = Planned { key: own.clone(), text, stored: None, firm: false };
                Ok((answer, Plan::told(vec![write], changes)))
            })
        };
        let (mut answer, committed) = self.commit_anew(&cause, plan).await?;
        answer.release = committed.release;
        Ok(answer)
    }

    /// The open stage that is a release.
    fn find_stage(&self, view: &View, release: u64) -> Option<Open> {
        let all = view.objects.states().keys().filter(|key| key.kind == Kind::Stage);
        let open = |object: Arc<Object>| {
            let stage = object.stage().filter(|s| s.release == release)?.clone();
            Some(Open { object, stage })
        };
        all.filter_map(|key| self.stored(view, key)).find_map(open)
    }

    /// The same; one that another control plane has just made is waited for.
    async fn open_stage(&self, mut view: Arc<View>, release: u64) -> Result<(Arc<View>, Open), ApiError> {
        if self.find_stage(&view, release).is_none() {
            self.settled(|view| self.find_stage(view, release).is_some()).await;
            view = self.view();
        }
        match self.find_stage(&view, release) {
            Some(open) => Ok((view, open)),
            None => Err(ApiError::NotFound(format!("open stage of release {release}"))),
        }
    }

    /// Makes a stage active for all.
    ///
    /// # Errors
    /// It is not open; one of its objects was changed since it was staged; it is refused as [`Api::apply`] refuses; the store
    /// is away.
    pub async fn promote(&self, by: &str, r: v1::PromoteRequest) -> Result<v1::PromoteResponse, ApiError> {
        let release = r.release;
        let (_, open) = self.open_stage(self.view(), release).await?;
        let cause = Cause {
            of: Some(release),
            group: Some(open.object.key.name.to_string()),
            ..Cause::new(by, &r.message, Action::Promote)?
        };
        let plan = move |view: Arc<View>, _: u64| -> Planning<'_, _> {
            Box::pin(async move {
                let (view, open) = self.open_stage(view, release).await?;
                let (mut writes, mut resources, mut deletes) = (Vec::new(), Vec::new(), Vec::new());
                for StagedObject { object, text, base_revision, deleted } in open.stage.objects {
                    let key: ObjectKey =
                        object.parse().map_err(|e| ApiError::Invalid(format!("{object}: {e}")))?;
                    let stored = self.stored(&view, &key);
                    if stored.as_ref().map_or(0, |o| o.revision) != base_revision {
                        let told = format!(
                            "{key} was changed since it was staged: abort release {release}, and stage it anew"
                        );
                        return Err(ApiError::Conflict(told));
                    }
                    if deleted {
                        deletes.push(key.clone());
                        writes.push(Planned { key, text: None, stored, firm: true });
                        continue;
                    }
                    let staged = Object::stored(key.clone(), 0, &text);
                    let resource = staged
                        .resource()
                        .ok_or_else(|| ApiError::Invalid(format!("{key} cannot be read")))?;
                    resources.push((**resource).clone());
                    writes.push(Planned { key, text: Some(text), stored, firm: true });
                }
                let warnings = self.admit(resources, deletes).await?;
                let applied = |p: &Planned| {
                    let (object, outcome) = (p.key.to_string(), p.outcome().into());
                    (p.key.clone(), v1::Applied { object, revision: 0, outcome })
                };
                let changed: Vec<_> = writes.iter().map(applied).collect();
                let (key, stored) = (open.object.key.clone(), Some(open.object));
                writes.push(Planned { key, text: None, stored, firm: true });
                Ok(((changed, warnings), Plan::of(writes)))
            })
        };
        let ((changed, warnings), committed) = self.commit_anew(&cause, plan).await?;
        let revised = |(key, one): (ObjectKey, v1::Applied)| {
            let revision = committed.revisions.get(&key).copied().unwrap_or(0);
            v1::Applied { revision, ..one }
        };
        let changed = changed.into_iter().map(revised).collect();
        Ok(v1::PromoteResponse { release: committed.release, changed, warnings })
    }

    /// Gives a stage up.
    ///
    /// # Errors
    /// It is not open; the store is away.
    pub async fn abort(&self, by: &str, r: v1::AbortRequest) -> Result<v1::AbortResponse, ApiError> {
        let release = self.end_stage(by, &r.message, Action::Abort, r.release).await?;
        Ok(v1::AbortResponse { release })
    }

    /// Takes a stage back for a reason; done by every control plane that sees one, and so by the first.
    ///
    /// # Errors
    /// The store is away.
    pub async fn withdraw(&self, stage: &StageView, reason: &str) -> Result<Withdrawn, ApiError> {
        let by = format!("control plane {}", self.identifier());
        // The client's own words may be long.
        let end = reason.char_indices().map(|(i, c)| i + c.len_utf8()).take_while(|end| *end <= 1000).last();
        let reason = &reason[..end.unwrap_or(0)];
        match self.end_stage(&by, reason, Action::Withdraw, stage.release()).await {
            Ok(_) => Ok(Withdrawn::ByUs),
            Err(ApiError::NotFound(_) | ApiError::Conflict(_)) => Ok(Withdrawn::BySomebody),
            Err(error) => Err(error),
        }
    }

    async fn end_stage(
        &self,
        by: &str,
        message: &str,
        action: Action,
        release: u64,
    ) -> Result<u64, ApiError> {
        let (_, open) = self.open_stage(self.view(), release).await?;
        let group = Some(open.object.key.name.to_string());
        let cause = Cause { of: Some(release), group, ..Cause::new(by, message, action)? };
        let plan = move |view: Arc<View>, _: u64| -> Planning<'_, _> {
            Box::pin(async move {
                let (_, Open { object, stage: _ }) = self.open_stage(view, release).await?;
                let write = Planned { key: object.key.clone(), text: None, stored: Some(object), firm: true };
                Ok(((), Plan::told(vec![write], Vec::new())))
            })
        };
        let ((), committed) = self.commit_anew(&cause, plan).await?;
        Ok(committed.release)
    }
}
