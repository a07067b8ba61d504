//! Objects: what people write to configure a fleet, with the revision a store gave them.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use xds_types::portolan::config::v1::{
    AccessToken, Gateway, Listener, Policy, Resource, Route, Sealed, Service, Stage, listener,
    resource::Spec, secret,
};

use super::{InvalidName, Kind, ObjectKey, ObjectName, Problem, Severity};

/// An object as a source holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Kind and name, from the store's key.
    pub key: ObjectKey,
    /// Revision the store gave it; grows with each write of the object.
    pub revision: u64,
    /// What it says.
    pub content: Content,
}

/// What an object says, or why it cannot be read.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// It was read. Not yet known to be valid.
    Read(Arc<Resource>),
    /// It was written past admission and cannot be read. Its last good revision stays in force.
    Unreadable(Arc<[Problem]>),
}

impl Object {
    /// A readable object. Its key is that of the resource.
    ///
    /// # Errors
    /// When the resource has no valid name, or no kind.
    pub fn new(resource: Resource, revision: u64) -> Result<Self, Problem> {
        let key = Self::key_of(&resource)?;
        Ok(Self { key, revision, content: Content::Read(Arc::new(resource)) })
    }

    /// Reads an object out of the text stored under its key. Never fails: what cannot be read, or does not say
    /// the kind and the name that its key says, becomes [`Content::Unreadable`].
    pub fn stored(key: ObjectKey, revision: u64, text: &str) -> Self {
        let content = match read(&key, text) {
            Ok(resource) => Content::Read(Arc::new(resource)),
            Err(problems) => Content::Unreadable(problems.into()),
        };
        Self { key, revision, content }
    }

    /// Kind and name that a resource says of itself.
    ///
    /// # Errors
    /// When it has no valid name, or no kind.
    pub fn key_of(resource: &Resource) -> Result<ObjectKey, Problem> {
        let problem = |path: &str, message: String| Problem {
            object: None,
            path: path.to_owned(),
            message,
            severity: Severity::Error,
        };
        let kind = match &resource.spec {
            Some(Spec::Service(_)) => Kind::Service,
            Some(Spec::Gateway(_)) => Kind::Gateway,
            Some(Spec::Route(_)) => Kind::Route,
            Some(Spec::Policy(_)) => Kind::Policy,
            Some(Spec::Secret(_)) => Kind::Secret,
            Some(Spec::Token(_)) => Kind::AccessToken,
            Some(Spec::Stage(_)) => Kind::Stage,
            None => return Err(problem("kind", format!("must be one of {}", super::id::known_kinds()))),
        };
        let name = ObjectName::new(&resource.name)
            .map_err(|e: InvalidName| problem("name", format!("`{}` {e}", resource.name)))?;
        Ok(ObjectKey { kind, name })
    }

    /// The resource, when it was read.
    pub fn resource(&self) -> Option<&Arc<Resource>> {
        match &self.content {
            Content::Read(resource) => Some(resource),
            Content::Unreadable(_) => None,
        }
    }

    /// The spec of a Service.
    pub fn service(&self) -> Option<&Service> {
        match self.resource()?.spec.as_ref()? {
            Spec::Service(s) => Some(s),
            _ => None,
        }
    }

    /// The spec of a Gateway.
    pub fn gateway(&self) -> Option<&Gateway> {
        match self.resource()?.spec.as_ref()? {
            Spec::Gateway(g) => Some(g),
            _ => None,
        }
    }

    /// The spec of a Route.
    pub fn route(&self) -> Option<&Route> {
        match self.resource()?.spec.as_ref()? {
            Spec::Route(r) => Some(r),
            _ => None,
        }
    }

    /// The spec of a Policy.
    pub fn policy(&self) -> Option<&Policy> {
        match self.resource()?.spec.as_ref()? {
            Spec::Policy(p) => Some(p),
            _ => None,
        }
    }

    /// What a Secret holds, encrypted.
    pub fn sealed(&self) -> Option<&Sealed> {
        match self.resource()?.spec.as_ref()? {
            Spec::Secret(s) => match s.from.as_ref()? {
                secret::From::Sealed(sealed) => Some(sealed),
                _ => None,
            },
            _ => None,
        }
    }

    /// The spec of a Stage.
    pub fn stage(&self) -> Option<&Stage> {
        match self.resource()?.spec.as_ref()? {
            Spec::Stage(s) => Some(s),
            _ => None,
        }
    }

    /// The spec of an AccessToken.
    pub fn token(&self) -> Option<&AccessToken> {
        match self.resource()?.spec.as_ref()? {
            Spec::Token(t) => Some(t),
            _ => None,
        }
    }
}

fn read(key: &ObjectKey, text: &str) -> Result<Resource, Vec<Problem>> {
    let problem = |path: String, message: String| Problem {
        object: Some(key.clone()),
        path,
        message,
        severity: Severity::Error,
    };
    let source = xds_types::text::Source { name: &key.to_string(), text };
    let mut found = xds_types::resource::parse(source).map_err(|errors| {
        let at = |p: xds_types::text::Place| format!(" (line {}, column {})", p.line, p.column);
        let one =
            |e: xds_types::text::Error| problem(e.path, e.message + &e.place.map(at).unwrap_or_default());
        errors.list.into_iter().map(one).collect::<Vec<_>>()
    })?;
    let resource = match (found.pop(), found.is_empty()) {
        (Some(one), true) => one.resource,
        (None, _) => return Err(vec![problem(String::new(), "is empty".to_owned())]),
        (Some(_), false) => return Err(vec![problem(String::new(), "must be one object".to_owned())]),
    };
    if let Some(Spec::Secret(s)) = &resource.spec
        && !matches!(s.from, Some(secret::From::Sealed(_)))
    {
        let message = "is stored in the clear; write it by `portolan apply`, which encrypts it";
        return Err(vec![problem("spec".to_owned(), message.to_owned())]);
    }
    match Object::key_of(&resource) {
        Ok(said) if said == *key => Ok(resource),
        Ok(said) => Err(vec![problem(String::new(), format!("is stored under {key} but says it is {said}"))]),
        Err(p) => Err(vec![Problem { object: Some(key.clone()), ..p }]),
    }
}

/// The name of a listener, or its default.
pub fn listener_name(l: &Listener) -> String {
    if !l.name.is_empty() {
        return l.name.clone();
    }
    let protocol = match listener::Protocol::try_from(l.protocol) {
        Ok(listener::Protocol::Https) => "https",
        Ok(listener::Protocol::Tcp) => "tcp",
        Ok(listener::Protocol::TlsPassthrough) => "tls-passthrough",
        Ok(listener::Protocol::Http) | Err(_) => "http",
    };
    format!("{protocol}-{}", l.port)
}

/// Whether a listener carries bytes and knows no requests.
pub fn carries_bytes(l: &Listener) -> bool {
    use listener::Protocol::{Tcp, TlsPassthrough};
    matches!(listener::Protocol::try_from(l.protocol), Ok(Tcp | TlsPassthrough))
}

/// Whether a route is for a listener of a gateway that it is attached to.
pub fn is_for(route: &Route, l: &Listener) -> bool {
    match route.listeners.is_empty() {
        true => !carries_bytes(l),
        false => route.listeners.contains(&listener_name(l)),
    }
}

/// The address of a listener, or its default; `None` when it is not an IP address.
pub fn listener_address(l: &Listener) -> Option<IpAddr> {
    if l.address.is_empty() { Some(Ipv4Addr::UNSPECIFIED.into()) } else { l.address.parse().ok() }
}
