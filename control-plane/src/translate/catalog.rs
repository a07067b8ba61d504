//! What resources are made of: the objects in force and the registered instances, at one moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use xds_types::portolan::config::v1::mutual_tls::Mode;
use xds_types::portolan::config::v1::{Service, discovery::From, resource::Spec};

use super::{endpoint, names};
use crate::authority::Identity;
use crate::model::{Instance, Kind, Object, ObjectKey, ObjectName, ServiceName};
use crate::secret::AUTHORITY;
use crate::snapshot::Resource;

/// Objects in force, and registered instances.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    objects: BTreeMap<ObjectKey, Arc<Object>>,
    services: BTreeMap<ServiceName, Arc<[Arc<Instance>]>>,
}

/// The instances that an assignment is made of, to tell whether they are still the same.
#[derive(Clone, Debug)]
pub(super) struct Ingredients {
    object: Option<Arc<Object>>,
    instances: Option<Arc<[Arc<Instance>]>>,
}

impl Ingredients {
    pub(super) fn same(&self, other: &Self) -> bool {
        let objects = match (&self.object, &other.object) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        let instances = match (&self.instances, &other.instances) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        objects && instances
    }
}

impl Catalog {
    pub(super) fn new(
        objects: BTreeMap<ObjectKey, Arc<Object>>,
        services: BTreeMap<ServiceName, Arc<[Arc<Instance>]>>,
    ) -> Self {
        Self { objects, services }
    }

    pub(super) fn objects(&self) -> &BTreeMap<ObjectKey, Arc<Object>> {
        &self.objects
    }

    /// Objects in force of one kind, by name.
    pub(super) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&ObjectKey, &Arc<Object>)> {
        self.objects.iter().filter(move |(key, _)| key.kind == kind)
    }

    /// The Service object of a name.
    pub(super) fn service(&self, name: &str) -> Option<&Arc<Object>> {
        self.objects.get(&ObjectKey::new(Kind::Service, ObjectName::new(name).ok()?))
    }

    fn spec(&self, name: &str) -> Option<&Service> {
        self.service(name)?.service()
    }

    /// What a Service says of mutual TLS.
    pub(super) fn mtls(&self, service: &str) -> Mode {
        let told = self.spec(service).map(|s| Mode::try_from(s.mtls).unwrap_or_default());
        told.unwrap_or(Mode::Off)
    }

    /// As whom the proxies of a group call others: the service that they stand before, if it is one.
    pub(super) fn identity(&self, group: Option<&Arc<str>>) -> Identity {
        let Some(group) = group else { return Identity::Proxy };
        let gateways = self.of_kind(Kind::Gateway).filter_map(|(_, o)| o.gateway());
        let mut services: Vec<&str> = gateways
            .filter(|g| g.group == **group && !g.service.is_empty())
            .map(|g| g.service.as_str())
            .collect();
        services.sort_unstable();
        services.dedup();
        match services[..] {
            [one] => Identity::Service(one.into()),
            _ => Identity::Group(group.clone()),
        }
    }

    /// Secrets that a group may fetch by their own word.
    pub(super) fn secrets_for(&self, group: &str) -> Vec<Arc<str>> {
        let may = |o: &Arc<Object>| match o.resource().and_then(|r| r.spec.as_ref()) {
            Some(Spec::Secret(s)) => s.groups.iter().any(|g| g == group),
            _ => false,
        };
        let all = self.of_kind(Kind::Secret).filter(|(_, o)| may(o));
        all.map(|(key, _)| key.name.shared().clone()).filter(|name| **name != *AUTHORITY).collect()
    }

    pub(super) fn has_subset(&self, service: &str, subset: &str) -> bool {
        self.spec(service).is_some_and(|s| s.subsets.contains_key(subset))
    }

    /// The name under which a service's instances are registered.
    pub(super) fn registered_as<'a>(&'a self, service: &'a str) -> &'a str {
        match self.spec(service).and_then(|s| s.discovery.as_ref()).and_then(|d| d.from.as_ref()) {
            Some(From::Service(other)) => other,
            _ => service,
        }
    }

    pub(super) fn is_registered(&self, service: &str) -> bool {
        self.services.contains_key(self.registered_as(service))
    }

    /// What the assignment of a cluster is made of.
    pub(super) fn ingredients(&self, cluster: &str) -> Ingredients {
        let (service, _) = names::service_and_subset(cluster);
        Ingredients {
            object: self.service(service).cloned(),
            instances: self.services.get(self.registered_as(service)).cloned(),
        }
    }

    /// The endpoints of a cluster; `None` when they do not come by EDS.
    pub(super) fn assignment(&self, cluster: &str) -> Option<Resource> {
        let (service, subset) = names::service_and_subset(cluster);
        let object = self.service(service);
        let spec = object.and_then(|o| o.service());
        let origin = object.map(|o| o.key.clone());
        match spec.and_then(|s| s.discovery.as_ref()).and_then(|d| d.from.as_ref()) {
            Some(From::Dns(_)) => None,
            Some(From::Static(fixed)) => {
                let name = ServiceName::new(service).ok()?;
                let at = |text: &String| Instance::at(name.clone(), text.parse().ok()?).ok();
                let all: Vec<Instance> = fixed.addresses.iter().filter_map(at).collect();
                Some(endpoint::assignment(cluster.into(), all.iter(), spec, origin))
            }
            Some(From::Service(_)) | None => {
                let all = self.services.get(self.registered_as(service)).map_or(&[] as &[_], |all| all);
                let labels =
                    (!subset.is_empty()).then(|| spec.and_then(|s| s.subsets.get(subset)).map(|s| &s.labels));
                let taken = all.iter().map(|i| &**i).filter(|i| match labels {
                    None => true,
                    Some(None) => false, // a subset that the service does not have holds nothing
                    Some(Some(labels)) => i.has_labels(labels.iter().map(|(k, v)| (k.as_str(), v.as_str()))),
                });
                Some(endpoint::assignment(cluster.into(), taken, spec, origin))
            }
        }
    }
}
