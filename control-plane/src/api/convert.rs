//! Between the model and the messages of `portolan.api.v1`.

use super::ApiError;
use crate::ads;
use crate::model::{
    Health, Instance, InstanceId, Object, ObjectKey, Problem, Problems, ServiceName, Severity,
};
use crate::pipeline::{Hold, StageView};
use crate::release::{Action, Record};
use crate::translate::ObjectState;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};
use xds_types::google::protobuf;
use xds_types::portolan::api::v1;
use xds_types::portolan::api::v1::{instance, problem};

pub(super) fn problem(problem: &Problem) -> v1::Problem {
    v1::Problem {
        object: problem.object.as_ref().map(ToString::to_string).unwrap_or_default(),
        path: problem.path.clone(),
        message: problem.message.clone(),
        severity: match problem.severity {
            Severity::Error => problem::Severity::Error,
            Severity::Warning => problem::Severity::Warning,
        }
        .into(),
    }
}

pub(super) fn problems(problems: &Problems) -> v1::Problems {
    v1::Problems { problems: problems.list.iter().map(problem).collect() }
}

/// Refusals shown of one object.
const REFUSALS: usize = 16;
/// Refusals by object.
pub(super) type Refusals = BTreeMap<ObjectKey, Vec<ads::Refusal>>;

fn refusal(refusal: &ads::Refusal) -> v1::Refusal {
    let ads::Refusal { node, group, kind, nack } = refusal;
    v1::Refusal {
        node: node.clone(),
        group: group.clone(),
        r#type: kind.clone(),
        reason: nack.reason.clone(),
        at: Some(timestamp(nack.at)),
    }
}

pub(super) fn stored(state: &ObjectState, refusals: &Refusals) -> v1::StoredObject {
    let shown: &Object = &state.newest;
    let refused = refusals.get(&shown.key).map_or(&[][..], Vec::as_slice);
    let nodes: BTreeSet<&str> = refused.iter().map(|r| r.node.as_str()).collect();
    v1::StoredObject {
        resource: shown.resource().map(|r| super::tokens::without_secrets(r)),
        revision: shown.revision,
        source: state.source.to_string(),
        in_force: !state.is_quarantined(),
        revision_in_force: state.in_force.as_ref().map_or(0, |o| o.revision),
        problems: state.problems.iter().map(problem).collect(),
        refused_by: refused.iter().take(REFUSALS).map(refusal).collect(),
        refused_by_nodes: nodes.len() as u32,
    }
}

/// An open stage.
pub(super) fn stage(view: &StageView) -> v1::StageStatus {
    let objects = view.stage.stage().map_or(&[][..], |s| &s.objects);
    v1::StageStatus {
        group: view.group().to_owned(),
        release: view.release(),
        objects: objects.iter().map(|o| o.object.clone()).collect(),
        deletes: objects.iter().filter(|o| o.deleted).map(|o| o.object.clone()).collect(),
    }
}

fn action(action: Action) -> v1::release::Action {
    match action {
        Action::Apply => v1::release::Action::Apply,
        Action::Delete => v1::release::Action::Delete,
        Action::Rollback => v1::release::Action::Rollback,
        Action::Reseal => v1::release::Action::Reseal,
        Action::Stage => v1::release::Action::Stage,
        Action::Promote => v1::release::Action::Promote,
        Action::Abort => v1::release::Action::Abort,
        Action::Withdraw => v1::release::Action::Withdraw,
    }
}

/// A release, and the one that ended it, if it was a stage.
pub(super) fn release(number: u64, record: &Record, end: Option<(u64, Action)>) -> v1::Release {
    let Record { at, by, message, action: made_by, of, group, changes } = record;
    let change = |c: &crate::release::Change| v1::ReleasedObject {
        object: c.object.to_string(),
        outcome: super::commit::outcome(c.outcome()).into(),
    };
    v1::Release {
        number,
        at: Some(timestamp(*at)),
        by: by.clone(),
        message: message.clone(),
        action: action(*made_by).into(),
        of: of.unwrap_or(0),
        group: group.clone().unwrap_or_default(),
        ended_by: end.map_or(0, |(number, _)| number),
        ended: end.map_or_else(v1::release::Action::default, |(_, how)| action(how)).into(),
        changes: changes.iter().map(change).collect(),
    }
}

pub(super) fn service_name(text: &str) -> Result<ServiceName, ApiError> {
    ServiceName::new(text).map_err(|e| ApiError::Invalid(format!("service `{text}` {e}")))
}

pub(super) fn instance_id(text: &str) -> Result<InstanceId, ApiError> {
    InstanceId::new(text).map_err(|e| ApiError::Invalid(format!("instance id `{text}` {e}")))
}

/// Reads an instance and says everything that is wrong with it.
pub(super) fn read_instance(told: v1::Instance) -> Result<Instance, ApiError> {
    let v1::Instance { service, id, address, port, weight, zone, labels, health } = told;
    let mut wrong = Vec::new();
    let service = service_name(&service).map_err(|e| wrong.push(e.to_string())).ok();
    let ip =
        address.parse().map_err(|_| wrong.push(format!("address `{address}` is not an IP address"))).ok();
    let health = match instance::Health::try_from(health) {
        Ok(instance::Health::Healthy) => Health::Healthy,
        Ok(instance::Health::Unhealthy) => Health::Unhealthy,
        Ok(instance::Health::Draining) => Health::Draining,
        Err(_) => {
            wrong.push(format!("health {health} is unknown"));
            Health::Healthy
        }
    };
    let port = u16::try_from(port).unwrap_or(0);
    let id = match (&*id, ip) {
        ("", Some(ip)) => instance_id(&std::net::SocketAddr::new(ip, port).to_string()),
        ("", None) => Err(ApiError::Invalid("id is required with an address that is none".to_owned())),
        (id, _) => instance_id(id),
    };
    let id = id.map_err(|e| wrong.push(e.to_string())).ok();
    let (Some(service), Some(address), Some(id)) = (service, ip, id) else {
        return Err(ApiError::Invalid(wrong.join("; ")));
    };
    let instance = Instance {
        service,
        id,
        address,
        port,
        weight: weight.max(1),
        zone: zone.into(),
        labels: labels.into_iter().map(|(k, v)| (k.into(), v.into())).collect(),
        health,
    };
    let checked = instance.checked().map_err(|e| wrong.push(e.to_string())).ok();
    match checked {
        Some(instance) if wrong.is_empty() => Ok(instance),
        _ => Err(ApiError::Invalid(wrong.join("; "))),
    }
}

pub(super) fn instance(instance: &Instance) -> v1::Instance {
    let Instance { service, id, address, port, weight, zone, labels, health } = instance;
    v1::Instance {
        service: service.to_string(),
        id: id.to_string(),
        address: address.to_string(),
        port: u32::from(*port),
        weight: *weight,
        zone: zone.to_string(),
        labels: labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        health: match health {
            Health::Healthy => instance::Health::Healthy,
            Health::Unhealthy => instance::Health::Unhealthy,
            Health::Draining => instance::Health::Draining,
        }
        .into(),
    }
}

pub(super) fn node(node: &ads::NodeStatus) -> v1::NodeStatus {
    v1::NodeStatus {
        id: node.id.clone(),
        group: node.group.clone(),
        user_agent: node.user_agent.clone(),
        peer: node.peer.clone(),
        mode: node.mode.to_string(),
        connected: Some(timestamp(node.connected)),
        types: node.types.iter().map(|(name, t)| type_status(name, t)).collect(),
    }
}

pub(super) fn held(service: &ServiceName, hold: &Hold) -> v1::HeldService {
    let Hold { since, until, lost, live } = hold;
    v1::HeldService {
        service: service.to_string(),
        since: Some(timestamp(*since)),
        until: until.map(timestamp),
        lost: lost.iter().map(|i| i.id.to_string()).collect(),
        live: u32::try_from(*live).unwrap_or(u32::MAX),
    }
}

fn type_status(name: &str, status: &ads::TypeStatus) -> v1::TypeStatus {
    let split = |at: &Option<(String, SystemTime)>| {
        at.as_ref().map_or((String::new(), None), |(version, at)| (version.clone(), Some(timestamp(*at))))
    };
    let (sent_version, sent) = split(&status.sent);
    let (acked_version, acked) = split(&status.acked);
    v1::TypeStatus {
        r#type: name.to_owned(),
        subscribed: status.subscribed as u32,
        wildcard: status.wildcard,
        sent_version,
        sent,
        acked_version,
        acked,
        nack: status.nack.as_ref().map(|nack| v1::Nack {
            version: nack.version.clone(),
            reason: nack.reason.clone(),
            at: Some(timestamp(nack.at)),
            resources: nack.resources.iter().map(ToString::to_string).collect(),
            objects: nack.objects.iter().map(ToString::to_string).collect(),
        }),
    }
}

pub(super) fn timestamp(at: SystemTime) -> protobuf::Timestamp {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    protobuf::Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() as i32 }
}

pub(super) fn duration(duration: Duration) -> protobuf::Duration {
    protobuf::Duration { seconds: duration.as_secs() as i64, nanos: duration.subsec_nanos() as i32 }
}

pub(super) fn read_ttl(told: protobuf::Duration) -> Result<Duration, ApiError> {
    let invalid = || ApiError::Invalid("ttl must be more than 0s and at most 24h".to_owned());
    let seconds = u64::try_from(told.seconds).map_err(|_| invalid())?;
    let ttl = Duration::new(seconds, u32::try_from(told.nanos).map_err(|_| invalid())?);
    if ttl.is_zero() || ttl > Duration::from_secs(86_400) { Err(invalid()) } else { Ok(ttl) }
}
