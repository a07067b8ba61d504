//! Every call of the API.

use super::commit::{self, Cause, Plan, Planned, Planning};
use super::convert::{self, instance_id, service_name};
use super::error::ApiError;
use crate::ads;
use crate::fleet::Fleet;
use crate::model::{Kind, Object, ObjectKey, ObjectName, Problem, Problems, Severity, Sync};
use crate::pipeline::{Handle, View};
use crate::release::Action;
use crate::source::store::{Store, StoreError};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use xds_types::portolan::api::v1;
use xds_types::portolan::config::v1::{Resource, resource::Spec, secret::From};

/// How long a write waits to be seen by the pipeline, so that a read that follows sees it. Past that it is
/// answered all the same: it is stored.
const SETTLE: Duration = Duration::from_secs(2);
/// Objects in one call.
const MAX_OBJECTS: usize = 1000;

/// Which stores are written.
#[derive(Clone)]
pub struct Stores {
    /// Takes objects.
    pub config: Arc<dyn Store>,
    /// Takes instances.
    pub services: Arc<dyn Store>,
}

/// Every call, over the running pipeline.
#[derive(Clone)]
pub struct Api {
    pipeline: Handle,
    nodes: Arc<ads::Registry>,
    fleet: Fleet,
    stores: Stores,
    identifier: Arc<str>,
    history: u64,
}

impl Api {
    /// An API; `identifier` is this replica's name, `history` how many releases are kept.
    pub fn new(
        pipeline: Handle,
        nodes: Arc<ads::Registry>,
        fleet: Fleet,
        stores: Stores,
        identifier: &str,
        history: u64,
    ) -> Self {
        Self { pipeline, nodes, fleet, stores, identifier: identifier.into(), history }
    }

    pub(super) fn history_kept(&self) -> u64 {
        self.history
    }

    pub(super) fn view(&self) -> Arc<View> {
        self.pipeline.view()
    }

    pub(super) fn nodes(&self) -> &ads::Registry {
        &self.nodes
    }

    pub(super) fn identifier(&self) -> &str {
        &self.identifier
    }

    pub(super) fn pipeline(&self) -> &Handle {
        &self.pipeline
    }

    pub(super) fn stores(&self) -> &Stores {
        &self.stores
    }

    /// Checks what Secrets hold and puts their sealed form in their place, that which is stored where nothing
    /// changed. Answers warnings.
    pub(super) fn seal(
        &self,
        keys: &[ObjectKey],
        resources: &mut [Resource],
    ) -> Result<Vec<v1::Problem>, ApiError> {
        let (mut found, vault) = (Problems::default(), &self.pipeline.trust().vault);
        let view = self.pipeline.view();
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

    /// Whether a configuration was published: `readyz`.
    pub fn is_ready(&self) -> bool {
        self.pipeline.is_ready()
    }

    /// Creates or replaces objects, all or none, as one release of this caller; for one node group, if it says so.
    ///
    /// # Errors
    /// Refused with every problem; a revision that does not hold; the store is away.
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
        let keys = keys(&resources)?;
        let sealed = self.seal(&keys, &mut resources)?;
        if !group.is_empty() {
            if expected.iter().any(Option::is_some) {
                return Err(ApiError::Invalid("if_revision does not go with a stage".to_owned()));
            }
            return self.stage(cause, &group, &keys, &resources, sealed).await;
        }
        let (keys, resources, expected, sealed) = (&keys, &resources, &expected, &sealed);
        let plan = move |view: Arc<View>, _: u64| -> Planning<'_, _> {
            Box::pin(self.plan_apply(view, keys, resources, expected, sealed))
        };
        let (mut answer, committed) = self.commit_anew(&cause, plan).await?;
        answer.release = committed.release;
        for (key, one) in keys.iter().zip(&mut answer.applied) {
            if let Some(revision) = committed.revisions.get(key) {
                one.revision = *revision;
            }
        }
        Ok(answer)
    }

    async fn plan_apply(
        &self,
        view: Arc<View>,
        keys: &[ObjectKey],
        resources: &[Resource],
        expected: &[Option<u64>],
        sealed: &[v1::Problem],
    ) -> Result<(v1::ApplyResponse, Plan), ApiError> {
        let mut warnings = sealed.to_vec();
        warnings.extend(self.admit(resources.to_vec(), Vec::new()).await?);
        warnings.extend(super::stages::warnings(&view, keys));
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
        Ok((v1::ApplyResponse { applied, warnings, release: 0 }, Plan::of(planned)))
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
            view = self.pipeline.view();
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
        let refused = match keys(&request.resources) {
            Ok(keys) => {
                let mut resources = request.resources;
                match self.seal(&keys, &mut resources) {
                    Ok(mut warnings) => self.admit(resources, Vec::new()).await.map(|more| {
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

    /// One object.
    ///
    /// # Errors
    /// There is none of that kind and name.
    pub fn get(&self, request: &v1::GetRequest) -> Result<v1::StoredObject, ApiError> {
        let key = key(&request.kind, &request.name)?;
        let view = self.pipeline.view();
        view.objects
            .states()
            .get(&key)
            .map(|state| convert::stored(state, &self.nodes.refusals()))
            .ok_or_else(|| ApiError::NotFound(key.to_string()))
    }

    /// All objects of a kind, or of all kinds.
    ///
    /// # Errors
    /// The kind is unknown.
    pub fn list(&self, request: &v1::ListRequest) -> Result<v1::ListResponse, ApiError> {
        let kind = match &*request.kind {
            "" => None,
            text => Some(kind(text)?),
        };
        let view = self.pipeline.view();
        let wanted = |object: &Object| {
            let labels = object.resource().map(|r| &r.labels);
            request.labels.iter().all(|(k, v)| labels.is_some_and(|l| l.get(k) == Some(v)))
        };
        let states = view.objects.states().iter().filter(|(key, _)| kind.is_none_or(|k| k == key.kind));
        let refusals = self.nodes.refusals();
        let shown = states.filter(|(_, s)| wanted(&s.newest));
        let objects = shown.map(|(_, s)| convert::stored(s, &refusals)).collect();
        Ok(v1::ListResponse { objects })
    }

    /// Deletes an object, as a release of this caller.
    ///
    /// # Errors
    /// There is none; others refer to it; its revision does not hold; the store is away.
    pub async fn delete(&self, by: &str, request: v1::DeleteRequest) -> Result<v1::DeleteResponse, ApiError> {
        let cause = Cause::new(by, &request.message, Action::Delete)?;
        let key = key(&request.kind, &request.name)?;
        let expected = request.if_revision.map(|r| r.value);
        let key = &key;
        let plan = move |view: Arc<View>, _: u64| -> Planning<'_, _> {
            Box::pin(async move {
                let Some(state) = view.objects.states().get(key) else {
                    return Err(ApiError::NotFound(key.to_string()));
                };
                if self.stored(&view, key).is_none() {
                    return Err(ApiError::ReadOnly(format!(
                        "{key} is held by {}, which is not written",
                        state.source
                    )));
                }
                self.admit(Vec::new(), vec![key.clone()]).await.map_err(|error| match error {
                    ApiError::Refused(problems) => ApiError::InUse(problems),
                    other => other,
                })?;
                let stored = self.expect(view, key, expected).await?;
                let firm = expected.is_some();
                Ok(((), Plan::of(vec![Planned { key: key.clone(), text: None, stored, firm }])))
            })
        };
        let ((), committed) = self.commit_anew(&cause, plan).await?;
        Ok(v1::DeleteResponse { release: committed.release })
    }

    /// Registers or replaces an instance.
    ///
    /// # Errors
    /// It is malformed; the store is away.
    pub async fn register(
        &self,
        request: v1::RegisterInstanceRequest,
    ) -> Result<v1::RegisterInstanceResponse, ApiError> {
        let told = request.instance.ok_or_else(|| ApiError::Invalid("instance is required".to_owned()))?;
        let instance = convert::read_instance(told)?;
        let ttl = request.ttl.map(convert::read_ttl).transpose()?;
        let id = instance.id.to_string();
        let granted = self.stores.services.register(instance, ttl).await?;
        Ok(v1::RegisterInstanceResponse { id, ttl: granted.map(convert::duration) })
    }

    /// Renews an instance's time to live.
    ///
    /// # Errors
    /// It is gone; the store is away.
    pub async fn heartbeat(&self, request: v1::HeartbeatRequest) -> Result<v1::HeartbeatResponse, ApiError> {
        let (service, id) = (service_name(&request.service)?, instance_id(&request.id)?);
        let ttl = self.stores.services.renew(service, id).await?;
        Ok(v1::HeartbeatResponse { ttl: ttl.map(convert::duration) })
    }

    /// Removes an instance.
    ///
    /// # Errors
    /// It is gone; the store is away.
    pub async fn deregister(
        &self,
        request: v1::DeregisterInstanceRequest,
    ) -> Result<v1::DeregisterInstanceResponse, ApiError> {
        let (service, id) = (service_name(&request.service)?, instance_id(&request.id)?);
        self.stores.services.deregister(service, id).await?;
        Ok(v1::DeregisterInstanceResponse {})
    }

    /// The instances of one service, or of all, by source.
    ///
    /// # Errors
    /// The name is malformed.
    pub fn instances(
        &self,
        request: &v1::ListInstancesRequest,
    ) -> Result<v1::ListInstancesResponse, ApiError> {
        let service = match &*request.service {
            "" => None,
            text => Some(service_name(text)?),
        };
        let view = self.pipeline.view();
        let mut instances = Vec::new();
        for (source, held) in view.world.sources() {
            let services =
                held.instances.iter().filter(|(name, _)| service.as_ref().is_none_or(|s| s == *name));
            for instance in services.flat_map(|(_, all)| all.values()) {
                let instance = Some(convert::instance(instance));
                instances.push(v1::RegisteredInstance { instance, source: source.to_string() });
            }
        }
        Ok(v1::ListInstancesResponse { instances })
    }

    /// Lets go what is held of a service most of whose instances were lost.
    ///
    /// # Errors
    /// Nothing is held of it; the name is malformed.
    pub async fn accept_loss(
        &self,
        request: v1::AcceptLossRequest,
    ) -> Result<v1::AcceptLossResponse, ApiError> {
        let service = service_name(&request.service)?;
        let let_go = self.pipeline.accept_loss(service.clone()).await;
        let let_go = let_go.ok_or_else(|| ApiError::NotFound(format!("a hold of service {service}")))?;
        self.settled(|view| !view.holds.contains_key(&service)).await;
        Ok(v1::AcceptLossResponse { ids: let_go.iter().map(ToString::to_string).collect() })
    }

    /// The fleet.
    pub fn status(&self, request: &v1::StatusRequest) -> v1::StatusResponse {
        let view = self.pipeline.view();
        let sources = view.world.sources().iter().map(|(source, held)| v1::SourceStatus {
            name: source.to_string(),
            synced: held.sync == Sync::Synced,
            restored: held.sync == Sync::Restored,
            instances: held.instances.values().map(|all| all.len() as u64).sum(),
            objects: held.objects.len() as u64,
        });
        let nodes = self.nodes.nodes();
        let in_group = |n: &&ads::NodeStatus| request.group.is_empty() || n.group == request.group;
        let shown = nodes.iter().map(|(_, n)| n).filter(in_group).filter(|_| !request.summary_only);
        let states = view.objects.states();
        let refusals = self.nodes.refusals();
        let stored = |state| convert::stored(state, &refusals);
        v1::StatusResponse {
            control_plane: self.identifier.to_string(),
            sources: sources.collect(),
            publications: view.publications,
            last_published: view.last_published.map(convert::timestamp),
            quarantined: states.values().filter(|s| s.is_quarantined()).map(stored).collect(),
            refused: refusals.keys().filter_map(|key| states.get(key)).map(stored).collect(),
            stages: view.stages.values().map(convert::stage).collect(),
            nodes: shown.map(convert::node).collect(),
            connected_nodes: nodes.len() as u32,
            services: super::health::services(&view, &self.fleet.clusters(&request.group)),
            held: view.holds.iter().map(|(service, hold)| convert::held(service, hold)).collect(),
        }
    }

    /// Compiles what would be written, off the runtime's threads. Answers the warnings.
    pub(super) async fn admit(
        &self,
        writes: Vec<Resource>,
        deletes: Vec<ObjectKey>,
    ) -> Result<Vec<v1::Problem>, ApiError> {
        let pipeline = self.pipeline.clone();
        let admission = tokio::task::spawn_blocking(move || pipeline.admit(&writes, &deletes))
            .await
            .map_err(|e| ApiError::Unavailable(format!("admission failed: {e}")))?;
        if admission.is_accepted() {
            return Ok(admission.problems.warnings().map(convert::problem).collect());
        }
        Err(ApiError::Refused(admission.problems))
    }

    /// Waits until the pipeline's view holds what was just written, for [`SETTLE`] at most.
    pub(super) async fn settled(&self, mut holds: impl FnMut(&View) -> bool) {
        let mut views = self.pipeline.watch();
        let seen = views.wait_for(|view| holds(view));
        let _ = tokio::time::timeout(SETTLE, seen).await;
    }
}

fn kind(text: &str) -> Result<Kind, ApiError> {
    text.parse().map_err(|e: crate::model::UnknownKind| ApiError::Invalid(e.to_string()))
}

fn key(kind_text: &str, name: &str) -> Result<ObjectKey, ApiError> {
    let name = ObjectName::new(name).map_err(|e| ApiError::Invalid(format!("name `{name}` {e}")))?;
    Ok(ObjectKey::new(kind(kind_text)?, name))
}

/// The keys of what is to be written; each may be there once.
pub(super) fn keys(resources: &[Resource]) -> Result<Vec<ObjectKey>, ApiError> {
    if resources.is_empty() {
        return Err(ApiError::Invalid("no object was given".to_owned()));
    }
    if resources.len() > MAX_OBJECTS {
        let told = format!("{} objects in one call; at most {MAX_OBJECTS}", resources.len());
        return Err(ApiError::Invalid(told));
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
