//! What TLS contexts hold now: certificates and authorities, by who uses them.

use super::apply::State;
use super::secrets::Secrets;
use data_plane_core::config::{
    self, CommonTls, Secret, SecretKind, SecretSource, TlsCertificate, ValidationContext, ValidationSource,
};
use data_plane_core::translate::Resource;
use std::sync::Arc;

use super::kind::Kind;

/// Who uses a context.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A listener, by name.
    Listener(Box<str>),
    /// A cluster, by its name in stats.
    Cluster(Box<str>),
}

/// Something in a context.
#[derive(Clone, Debug)]
pub struct Named<T> {
    /// The secret's name; `None` for what is written in place.
    pub name: Option<Box<str>>,
    /// The content.
    pub content: Arc<T>,
}

/// What one TLS context holds now; what did not come yet is missing.
#[derive(Clone, Debug)]
pub struct Context {
    /// Who uses it.
    pub owner: Owner,
    /// Certificates with keys.
    pub certificates: Vec<Named<TlsCertificate>>,
    /// What peers are checked against.
    pub validation: Option<Named<ValidationContext>>,
}

/// All contexts of listeners, then of clusters.
pub(super) fn all(state: &State) -> Vec<Context> {
    let good = |kind: Kind| state.inventory.of(kind).values().filter_map(|entry| entry.good.as_ref());
    let listeners = state.static_listeners.values().map(|l| &**l);
    let listeners = listeners.chain(good(Kind::Listener).filter_map(|good| match &good.resource {
        Resource::Listener(listener) => Some(&**listener),
        _ => None,
    }));
    let mut out = Vec::new();
    for listener in listeners {
        let chains = listener.filter_chains.iter().chain(&listener.default_filter_chain);
        for tls in chains.filter_map(|chain| chain.transport_socket.as_ref()) {
            out.push(context(Owner::Listener(listener.name.clone()), &tls.common, &state.secrets));
        }
    }
    let clusters = state.static_clusters.values().map(|c| &**c);
    let clusters = clusters.chain(good(Kind::Cluster).filter_map(|good| match &good.resource {
        Resource::Cluster(cluster) => Some(&**cluster),
        _ => None,
    }));
    for cluster in clusters {
        out.extend(of_cluster(cluster, &state.secrets));
    }
    out
}

fn of_cluster<'a>(cluster: &'a config::Cluster, secrets: &'a Secrets) -> impl Iterator<Item = Context> + 'a {
    let matched = cluster.transport_socket_matches.iter().filter_map(|m| m.tls.as_ref());
    let sockets = cluster.transport_socket.iter().chain(matched);
    sockets.map(|tls| context(Owner::Cluster(cluster.stat_name.clone()), &tls.common, secrets))
}

fn context(owner: Owner, common: &CommonTls, secrets: &Secrets) -> Context {
    let delivered = |reference: &config::SdsReference| secrets.now(reference);
    let certificate = |source: &SecretSource<TlsCertificate>| match source {
        SecretSource::Inline(content) => Some(Named { name: None, content: Arc::clone(content) }),
        SecretSource::Sds(reference) => match &delivered(reference)?.kind {
            SecretKind::Certificate(content) => {
                Some(Named { name: Some(reference.name.clone()), content: Arc::clone(content) })
            }
            _ => None,
        },
    };
    let of_secret = |secret: &Secret| match &secret.kind {
        SecretKind::Validation(content) => Some(Arc::clone(content)),
        _ => None,
    };
    let validation = match &common.validation {
        None => None,
        Some(ValidationSource::Inline(content)) => Some(Named { name: None, content: Arc::clone(content) }),
        Some(ValidationSource::Sds(reference)) => delivered(reference)
            .and_then(|secret| of_secret(&secret))
            .map(|content| Named { name: Some(reference.name.clone()), content }),
        Some(ValidationSource::Combined { default, sds }) => delivered(sds)
            .and_then(|secret| of_secret(&secret))
            .map(|over| Named { name: Some(sds.name.clone()), content: Arc::new(default.overlaid(&over)) }),
    };
    Context { owner, certificates: common.certificates.iter().filter_map(certificate).collect(), validation }
}
