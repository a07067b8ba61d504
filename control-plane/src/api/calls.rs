//! Calls that read, and those about instances.

use super::convert::{self, instance_id, service_name};
use super::error::ApiError;
use crate::ads;
use crate::fleet::Fleet;
use crate::model::{Kind, Object, ObjectKey, ObjectName, Sync};
use crate::pipeline::{Handle, View};
use crate::source::store::Store;
use std::sync::Arc;
use std::time::Duration;
use xds_types::portolan::api::v1;
use xds_types::portolan::config::v1::Resource;

/// How long a write waits to be seen by the pipeline, so that a read that follows sees it. Past that it is
/// answered all the same: it is stored.
const SETTLE: Duration = Duration::from_secs(2);

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

    /// Whether a configuration was published: `readyz`.
    pub fn is_ready(&self) -> bool {
        self.pipeline.is_ready()
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

pub(super) fn key(kind_text: &str, name: &str) -> Result<ObjectKey, ApiError> {
    let name = ObjectName::new(name).map_err(|e| ApiError::Invalid(format!("name `{name}` {e}")))?;
    Ok(ObjectKey::new(kind(kind_text)?, name))
}
