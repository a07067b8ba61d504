//! Calls that write objects: all of a call or nothing, for all proxies or, as a stage, for one node group first.

use super::calls::key;
use super::commit::{self, Cause, Plan, Planned, Planning};
use super::{Api, ApiError, convert, stages};
use crate::model::{Object, ObjectKey, Problem, Problems, Severity};
use crate::pipeline::View;
use crate::release::{self, Action};
use crate::source::store::StoreError;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;
use xds_types::portolan::api::v1;
use xds_types::portolan::config::v1::{Resource, resource::Spec, secret::From};

/// Objects in one call.
const MAX_OBJECTS: usize = 1000;

impl Api {
    /// Checks what Secrets hold and puts their sealed form in their place, that which is stored where nothing
    /// changed. Answers warnings.
    pub(super) fn seal(
        &self,
        keys: &[ObjectKey],
        resources: &mut [Resource],
    ) -> Result<Vec<v1::Problem>, ApiError> {
        let (mut found, vault) = (Problems::default(), &self.pipeline().trust().vault);
        let view = self.view();
        for (key, resource) in keys.iter().zip(resources) {
            let Some(Spec::Secret(secret)) = &mut resource.spec else { continue };
            if matches!(secret.from, Some(From::Sealed(_))) {
                found.error(key, "spec.sealed", "is what is shown of a secret; write what it holds");
                continue;
            }
            let stored = view.objects.states().get(key).and_then(|s| s.newest.sealed());
            let same = stored.filter(|sealed| {
                vault.key_id() == Some(sealed.key_id.as_str())
                    && vault.open(key.name.as_str(), sealed).is_ok_and(|held| held.from == secret.from)
            });
            match same {
                Some(sealed) => secret.from = Some(From::Sealed(sealed.clone())),
                None => crate::secret::seal(vault, key, resource, SystemTime::now(), &mut found),
            }
        }
        if found.has_errors() {
            return Err(ApiError::Refused(found));
        }
        Ok(found.warnings().map(convert::problem).collect())
    }

    /// Creates, replaces and deletes objects, all or none, as one release of this caller; for one node group, if it says so.
    ///
    /// # Errors
    /// Refused with every problem; there is none of those to delete; a revision that does not hold; the store is away.
    pub async fn apply(&self, by: &str, request: v1::ApplyRequest) -> Result<v1::ApplyResponse, ApiError> {
        let cause = Cause::new(by, &request.message, Action::Apply)?;
        let group = request.stage;
        let mut resources = Vec::new();
        let mut expected = Vec::new();
        for object in request.objects {
            resources
                .push(object.resource.ok_or_else(|| ApiError::Invalid("resource is required".to_owned()))?);
            expected.push(object.if_revision.map(|r| r.value));
        }
        let (keys, deletes) = changed(&resources, &request.deletes)?;
        let sealed = self.seal(&keys, &mut resources)?;
        let wanted = Wanted { keys, resources, deletes, sealed };
        if !group.is_empty() {
            if expected.iter().any(Option::is_some) {
                return Err(no_revision());
            }
            return self.stage(cause, &group, &wanted).await;
        }
        let (wanted, expected) = (&wanted, &expected);
        let plan = move |view: Arc<View>, _: u64| -> Planning<'_, _> {
            Box::pin(self.plan_apply(view, wanted, expected))
        };
        let (mut answer, committed) = self.commit_anew(&cause, plan).await?;
        answer.release = committed.release;
        for (key, one) in wanted.keys.iter().zip(&mut answer.applied) {
            if let Some(revision) = committed.revisions.get(key) {
                one.revision = *revision;
            }
        }
        Ok(answer)
    }

    async fn plan_apply(
        &self,
        view: Arc<View>,
        wanted: &Wanted,
        expected: &[Option<u64>],
    ) -> Result<(v1::ApplyResponse, Plan), ApiError> {
        let Wanted { keys, resources, deletes, sealed } = wanted;
        let mut warnings = sealed.clone();
        warnings.extend(self.admit(resources.clone(), deletes.clone()).await?);
        warnings.extend(stages::warnings(&view, keys.iter().chain(deletes)));
        let mut applied = Vec::new();
        let mut planned = Vec::new();
        for ((key, resource), expected) in keys.iter().zip(resources).zip(expected) {
            let stored = self.expect(view.clone(), key, *expected).await?;
            let same = stored.as_ref().and_then(|o| o.resource()).is_some_and(|r| **r == *resource);
            let revision = stored.as_ref().map_or(0, |o| o.revision);
            let mut outcome = v1::applied::Outcome::Unchanged;
            if !same {
                let text = Some(commit::json(resource));
                let one = Planned { key: key.clone(), text, stored, firm: expected.is_some() };
                outcome = one.outcome();
                planned.push(one);
            }
            applied.push(v1::Applied { object: key.to_string(), revision, outcome: outcome.into() });
        }
        for key in deletes {
            let stored = Some(self.deletable(&view, key)?);
            let one = Planned { key: key.clone(), text: None, stored, firm: false };
            let (object, outcome) = (key.to_string(), one.outcome().into());
            applied.push(v1::Applied { object, revision: 0, outcome });
            planned.push(one);
        }
        Ok((v1::ApplyResponse { applied, warnings, release: 0 }, Plan::of(planned)))
    }

    /// What the store that is written holds of an object that is to be deleted.
    pub(super) fn deletable(&self, view: &View, key: &ObjectKey) -> Result<Arc<Object>, ApiError> {
        let state = view.objects.states().get(key).ok_or_else(|| ApiError::NotFound(key.to_string()))?;
        self.stored(view, key).ok_or_else(|| {
            ApiError::ReadOnly(format!("{key} is held by {}, which is not written", state.source))
        })
    }

    /// What the store holds of an object, if its revision is the one that the caller names. A newer revision than what is
    /// known here may have come from another control plane: it is waited for.
    async fn expect(
        &self,
        mut view: Arc<View>,
        key: &ObjectKey,
        expected: Option<u64>,
    ) -> Result<Option<Arc<Object>>, ApiError> {
        let revision = |view: &View| self.stored(view, key).map_or(0, |o| o.revision);
        let Some(expected) = expected else { return Ok(self.stored(&view, key)) };
        if revision(&view) < expected {
            self.settled(|view| revision(view) >= expected).await;
            view = self.view();
        }
        match revision(&view) == expected {
            true => Ok(self.stored(&view, key)),
            false => Err(StoreError::Conflict(key.clone().into()).into()),
        }
    }

    /// What [`Api::apply`] would say.
    ///
    /// # Errors
    /// The request itself cannot be understood; problems of the objects are in the answer.
    pub async fn validate(&self, request: v1::ValidateRequest) -> Result<v1::ValidateResponse, ApiError> {
        let refused = match changed(&request.resources, &request.deletes) {
            Ok((keys, deletes)) => {
                let mut resources = request.resources;
                match self.seal(&keys, &mut resources) {
                    Ok(mut warnings) => self.admit(resources, deletes).await.map(|more| {
                        warnings.extend(more);
                        warnings
                    }),
                    Err(refused) => Err(refused),
                }
            }
            Err(refused) => Err(refused),
        };
        match refused {
            Ok(warnings) => Ok(v1::ValidateResponse { accepted: true, problems: warnings }),
            Err(ApiError::Refused(problems)) => {
                let problems = convert::problems(&problems).problems;
                Ok(v1::ValidateResponse { accepted: false, problems })
            }
            Err(other) => Err(other),
        }
    }

    /// Deletes an object, as a release of this caller; for one node group, if it says so.
    ///
    /// # Errors
    /// There is none; others refer to it; its revision does not hold; the store is away.
    pub async fn delete(&self, by: &str, request: v1::DeleteRequest) -> Result<v1::DeleteResponse, ApiError> {
        let cause = Cause::new(by, &request.message, Action::Delete)?;
        let key = key(&request.kind, &request.name)?;
        let expected = request.if_revision.map(|r| r.value);
        let in_use = |error| match error {
            ApiError::Refused(problems) => ApiError::InUse(problems),
            other => other,
        };
        if !request.stage.is_empty() {
            if expected.is_some() {
                return Err(no_revision());
            }
            let wanted = Wanted { deletes: vec![key], ..Wanted::default() };
            let staged = self.stage(cause, &request.stage, &wanted).await.map_err(in_use)?;
            return Ok(v1::DeleteResponse { release: staged.release, warnings: staged.warnings });
        }
        let key = &key;
        let plan = move |view: Arc<View>, _: u64| -> Planning<'_, _> {
            Box::pin(async move {
                self.deletable(&view, key)?;
                let mut warnings = self.admit(Vec::new(), vec![key.clone()]).await.map_err(in_use)?;
                warnings.extend(stages::warnings(&view, [key]));
                let stored = self.expect(view, key, expected).await?;
                let firm = expected.is_some();
                Ok((warnings, Plan::of(vec![Planned { key: key.clone(), text: None, stored, firm }])))
            })
        };
        let (warnings, committed) = self.commit_anew(&cause, plan).await?;
        Ok(v1::DeleteResponse { release: committed.release, warnings })
    }
}

/// What a call is to change.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) keys: Vec<ObjectKey>,
    /// As many as keys.
    pub(super) resources: Vec<Resource>,
    pub(super) deletes: Vec<ObjectKey>,
    /// Warnings about what Secrets hold.
    pub(super) sealed: Vec<v1::Problem>,
}

fn no_revision() -> ApiError {
    ApiError::Invalid("if_revision does not go with a stage".to_owned())
}

/// The keys of what is to be written, and of what is to be deleted; each may be there once.
fn changed(resources: &[Resource], deletes: &[String]) -> Result<(Vec<ObjectKey>, Vec<ObjectKey>), ApiError> {
    if deletes.is_empty() {
        return Ok((keys(resources)?, Vec::new()));
    }
    let written = if resources.is_empty() { Vec::new() } else { keys(resources)? };
    if written.len() + deletes.len() > MAX_OBJECTS {
        return Err(too_many(written.len() + deletes.len()));
    }
    let mut gone = Vec::new();
    for text in deletes {
        let key: ObjectKey = text.parse().map_err(|e| ApiError::Invalid(format!("`{text}`: {e}")))?;
        if !release::is_kept(&key) {
            return Err(ApiError::Invalid(format!("{key} cannot be deleted with others")));
        }
        if written.contains(&key) || gone.contains(&key) {
            return Err(ApiError::Invalid(format!("{key} is given twice")));
        }
        gone.push(key);
    }
    Ok((written, gone))
}

fn too_many(objects: usize) -> ApiError {
    ApiError::Invalid(format!("{objects} objects in one call; at most {MAX_OBJECTS}"))
}

/// The keys of what is to be written; each may be there once.
pub(super) fn keys(resources: &[Resource]) -> Result<Vec<ObjectKey>, ApiError> {
    if resources.is_empty() {
        return Err(ApiError::Invalid("no object was given".to_owned()));
    }
    if resources.len() > MAX_OBJECTS {
        return Err(too_many(resources.len()));
    }
    let mut problems = Problems::default();
    let mut seen = BTreeSet::new();
    let mut keys = Vec::new();
    for resource in resources {
        match Object::new(resource.clone(), 0) {
            Ok(object) => {
                if !seen.insert(object.key.clone()) {
                    problems.list.push(Problem {
                        object: Some(object.key.clone()),
                        path: String::new(),
                        message: "is given twice".to_owned(),
                        severity: Severity::Error,
                    });
                }
                keys.push(object.key);
            }
            Err(problem) => problems.list.push(problem),
        }
    }
    if problems.has_errors() { Err(ApiError::Refused(problems)) } else { Ok(keys) }
}
