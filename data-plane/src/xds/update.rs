//! One response or file as resources to apply, and what became of them.

use super::kind::Kind;
use super::subscription::DeltaOutcome;
use data_plane_core::path::Finding;
use prost::Message;
use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write;
use xds_types::envoy::service::discovery::v3::{
    DeltaDiscoveryResponse, DiscoveryResponse, Resource as Wrapper,
};
use xds_types::google::protobuf::Any;

const WRAPPER_URL: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";

/// Refused resources told in one answer; further ones are counted.
const MAX_TOLD: usize = 100;

/// Resources to apply.
#[derive(Debug, Default)]
pub(super) struct Update {
    pub(super) version: String,
    pub(super) resources: Vec<Incoming>,
    pub(super) removed: Vec<Box<str>>,
    /// Clusters and listeners that are not in it are gone.
    pub(super) whole: bool,
}

/// A resource that came.
#[derive(Debug)]
pub(super) struct Incoming {
    /// Told by its wrapper; else it is read out of the body.
    pub(super) name: Option<Box<str>>,
    pub(super) version: Box<str>,
    /// `None`: nothing but a sign that it still holds (TTL heartbeat).
    pub(super) body: Option<Any>,
}

impl Update {
    pub(super) fn sotw(response: DiscoveryResponse) -> Self {
        let version = response.version_info;
        let resources = response.resources.into_iter().map(|any| Incoming::unwrap(any, &version)).collect();
        Self { resources, removed: Vec::new(), whole: true, version }
    }

    pub(super) fn delta(response: DeltaDiscoveryResponse) -> Self {
        let removed_names = response.removed_resource_names.into_iter().map(|n| n.name);
        Self {
            version: response.system_version_info,
            resources: response.resources.into_iter().map(Incoming::from_wrapper).collect(),
            removed: response.removed_resources.into_iter().chain(removed_names).map(Into::into).collect(),
            whole: false,
        }
    }
}

impl Incoming {
    /// SotW resources may come wrapped too. One that does not decode is kept as it is and refused by its type.
    fn unwrap(any: Any, version: &str) -> Self {
        if any.type_url == WRAPPER_URL
            && let Ok(wrapper) = Wrapper::decode(&*any.value)
        {
            let mut out = Self::from_wrapper(wrapper);
            if out.version.is_empty() {
                out.version = version.into();
            }
            return out;
        }
        Self { name: None, version: version.into(), body: Some(any) }
    }

    fn from_wrapper(wrapper: Wrapper) -> Self {
        let name = wrapper.resource_name.map(|n| n.name).filter(|n| !n.is_empty()).unwrap_or(wrapper.name);
        Self {
            name: Some(name).filter(|n| !n.is_empty()).map(Into::into),
            version: wrapper.version.into(),
            body: wrapper.resource,
        }
    }
}

/// The name in a resource's body: field 1 of every kind we ask for. Reads nothing else.
pub(super) fn name_in(body: &Any) -> Option<Box<str>> {
    #[derive(Clone, PartialEq, prost::Message)]
    struct Named {
        #[prost(string, tag = "1")]
        name: String,
    }
    let name = Named::decode(&*body.value).ok()?.name;
    (!name.is_empty()).then(|| name.into())
}

/// A resource refused, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Its name; `#3` for the fourth of a response when it has none.
    pub(super) name: Box<str>,
    /// Its place in the response.
    pub(super) index: Option<usize>,
    pub(super) findings: Vec<Finding>,
    /// Findings left out.
    pub(super) omitted: usize,
}

impl Refusal {
    pub(super) fn because(name: &str, index: Option<usize>, reason: impl Into<String>) -> Self {
        let finding = Finding { path: String::new(), message: reason.into() };
        Self { name: name.into(), index, findings: vec![finding], omitted: 0 }
    }

    /// Why, without the name.
    pub(super) fn reason(&self) -> String {
        let mut out = String::new();
        for (i, Finding { path, message }) in self.findings.iter().enumerate() {
            let gap = if i > 0 { "; " } else { "" };
            let colon = if path.is_empty() { "" } else { ": " };
            let _ = write!(out, "{gap}{path}{colon}{message}");
        }
        if self.omitted > 0 {
            let _ = write!(out, "; and {} more", self.omitted);
        }
        out
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.reason())
    }
}

/// What became of an update.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) applied: Vec<(Box<str>, Box<str>)>,
    pub(super) removed: Vec<Box<str>>,
    pub(super) refused: Vec<Refusal>,
}

impl Verdict {
    /// The text of a NACK: every refused resource by name and path. `None`: all was applied.
    pub(super) fn error(&self, kind: Kind) -> Option<String> {
        if self.refused.is_empty() {
            return None;
        }
        let mut out = format!("Error adding/updating {} ", kind.noun());
        for (i, refusal) in self.refused.iter().take(MAX_TOLD).enumerate() {
            let _ = write!(out, "{}{refusal}", if i > 0 { ", " } else { "" });
        }
        if self.refused.len() > MAX_TOLD {
            let _ = write!(out, ", and {} more", self.refused.len() - MAX_TOLD);
        }
        Some(out)
    }

    pub(super) fn delta(self, kind: Kind) -> DeltaOutcome {
        let error = self.error(kind);
        DeltaOutcome { applied: self.applied, removed: self.removed, error }
    }
}

/// A resource under its name.
pub(super) struct Item {
    pub(super) index: usize,
    pub(super) name: Box<str>,
    pub(super) version: Box<str>,
    pub(super) body: Option<Any>,
}

/// Names the resources of an update; refuses those of the wrong type and names that come twice. A resource
/// without a name in its wrapper or body goes by its place.
pub(super) fn identify(
    kind: Kind,
    resources: Vec<Incoming>,
    removed: &[Box<str>],
    verdict: &mut Verdict,
) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::with_capacity(resources.len());
    let mut uses: BTreeMap<Box<str>, usize> = BTreeMap::new();
    for (index, Incoming { name, version, body }) in resources.into_iter().enumerate() {
        let inner = body.as_ref().and_then(name_in);
        let unnamed = || format!("#{index}").into_boxed_str();
        if let (Some(outer), Some(inner)) = (&name, &inner)
            && outer != inner
        {
            let reason = format!("its wrapper calls it {outer:?}");
            verdict.refused.push(Refusal::because(inner, Some(index), reason));
            continue;
        }
        let name = name.or(inner).unwrap_or_else(unnamed);
        if let Some(body) = &body
            && body.type_url != kind.type_url()
        {
            let reason = format!("is of type {:?}, not {:?}", body.type_url, kind.type_url());
            verdict.refused.push(Refusal::because(&name, Some(index), reason));
            continue;
        }
        *uses.entry(name.clone()).or_default() += 1;
        items.push(Item { index, name, version, body });
    }
    for (name, _) in uses.iter().filter(|(_, uses)| **uses > 1) {
        verdict.refused.push(Refusal::because(name, None, "comes more than once in one response"));
    }
    for name in removed.iter().filter(|name| uses.contains_key(*name)) {
        verdict.refused.push(Refusal::because(name, None, "is both added and removed"));
    }
    items.retain(|item| uses[&item.name] == 1 && !removed.contains(&item.name));
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use xds_types::any;
    use xds_types::envoy::config::cluster::v3::Cluster;

    fn cluster(name: &str) -> Any {
        any::pack(&Cluster { name: name.into(), ..Cluster::default() })
    }

    fn incoming(name: &str) -> Incoming {
        Incoming { name: None, version: "1".into(), body: Some(cluster(name)) }
    }

    #[test]
    fn a_name_that_comes_twice_is_refused_and_others_are_kept() {
        let mut verdict = Verdict::default();
        let resources = vec![incoming("a"), incoming("b"), incoming("a")];
        let items = identify(Kind::Cluster, resources, &[], &mut verdict);
        assert_eq!(items.iter().map(|i| &*i.name).collect::<Vec<_>>(), ["b"]);
        let text = verdict.error(Kind::Cluster).unwrap();
        assert_eq!(text, "Error adding/updating cluster(s) a: comes more than once in one response");
    }

    #[test]
    fn a_resource_of_another_type_is_refused_by_name() {
        let mut verdict = Verdict::default();
        let items = identify(Kind::Listener, vec![incoming("a")], &[], &mut verdict);
        assert!(items.is_empty());
        assert!(verdict.error(Kind::Listener).unwrap().contains("a: is of type"));
    }

    #[test]
    fn a_name_both_added_and_removed_is_refused() {
        let mut verdict = Verdict::default();
        assert!(identify(Kind::Cluster, vec![incoming("a")], &["a".into()], &mut verdict).is_empty());
        assert!(verdict.error(Kind::Cluster).unwrap().contains("a: is both added and removed"));
    }

    #[test]
    fn wrapped_sotw_resources_are_unwrapped_and_keep_their_versions() {
        let wrapper = Wrapper {
            name: "a".into(),
            version: "7".into(),
            resource: Some(cluster("a")),
            ..Wrapper::default()
        };
        let response = DiscoveryResponse {
            version_info: "1".into(),
            resources: vec![any::pack(&wrapper), cluster("b")],
            ..DiscoveryResponse::default()
        };
        let update = Update::sotw(response);
        let seen: Vec<_> = update.resources.iter().map(|r| (r.name.as_deref(), &*r.version)).collect();
        assert_eq!(seen, [(Some("a"), "7"), (None, "1")]);
    }

    #[test]
    fn a_refusal_lists_every_finding_with_its_path() {
        let finding = |path: &str, message: &str| Finding { path: path.into(), message: message.into() };
        let refusal = Refusal {
            name: "web".into(),
            index: None,
            findings: vec![
                finding("lb_policy", "is not supported"),
                finding("connect_timeout", "must be > 0"),
            ],
            omitted: 2,
        };
        let verdict = Verdict { refused: vec![refusal], ..Verdict::default() };
        assert_eq!(
            verdict.error(Kind::Cluster).unwrap(),
            "Error adding/updating cluster(s) web: lb_policy: is not supported; connect_timeout: must be > 0; and 2 more"
        );
    }

    #[test]
    fn a_long_list_of_refusals_is_cut_short() {
        let refused = (0..150).map(|i| Refusal::because(&i.to_string(), None, "bad")).collect();
        let text = Verdict { refused, ..Verdict::default() }.error(Kind::Cluster).unwrap();
        assert!(text.ends_with(", and 50 more"), "{text}");
    }
}
