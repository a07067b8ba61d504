//! Policies -> filters of gateways, rate limits of their routes, and domains of the rate-limit service.
//!
//! A limit is a descriptor of the routes that it is meant for, which names the policy and the limit. Envoy's filters
//! take up the descriptors of their stage: there is one stage for each way that policies say refusals and failure are
//! to be dealt with, and for it one filter, which counts by itself (scope LOCAL) or asks the rate-limit service once
//! for all of its descriptors (scope GLOBAL). What no policy means for has no descriptor, and costs nothing.

mod messages;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::{Message, Name};
use xds_types::any::pack;
use xds_types::envoy::config::route::v3::Route as EnvoyRoute;
use xds_types::envoy::config::route::v3::route::Action;
use xds_types::envoy::extensions::common::ratelimit::v3::LocalRateLimitDescriptor;
use xds_types::envoy::extensions::filters::network::http_connection_manager::v3::{HttpFilter, http_filter};
use xds_types::portolan::config::v1::{
    Policy, RateLimit, RateLimitDomain, Route, Rule, policy::Policy as Member, target::Of,
};

use self::messages::{About, Settings};
use super::names;
use super::parts::check_rules;
use crate::model::check::OWN_DOMAIN;
use crate::model::{Object, ObjectKey, Problems};

/// Stages that a filter may be of (Envoy: `RateLimit.stage`).
pub(super) const STAGES: usize = 11;

/// The rate-limit policies in force, in the order of their names.
#[derive(Debug, Default)]
pub(super) struct Policies<'a> {
    all: Vec<(&'a ObjectKey, &'a Policy, &'a RateLimit)>,
    stages: Vec<Settings>,
}

impl<'a> Policies<'a> {
    pub(super) fn new(policies: impl Iterator<Item = (&'a ObjectKey, &'a Policy)>) -> Self {
        let limits = policies.filter_map(|(key, policy)| match &policy.policy {
            Some(Member::RateLimit(limit)) => Some((key, policy, limit)),
            _ => None,
        });
        let all: Vec<_> = limits.collect();
        let of = |limit: &'a RateLimit| limit.limits.iter().map(move |one| Settings::of(limit, one));
        let stages: BTreeSet<Settings> = all.iter().flat_map(|(.., limit)| of(limit)).collect();
        Self { all, stages: stages.into_iter().collect() }
    }

    /// Kinds of filters that these policies want, of which there may be [`STAGES`].
    pub(super) fn stages(&self) -> usize {
        self.stages.len()
    }

    fn stage(&self, settings: &Settings) -> u32 {
        let found = self.stages.iter().position(|s| s == settings).unwrap_or_default();
        u32::try_from(found.min(STAGES - 1)).unwrap_or_default()
    }

    /// The filters of a gateway's listeners, before the router: those that ask nobody first. `routes`: those attached
    /// to it.
    pub(super) fn filters(&self, gateway: &str, routes: &[(&str, &Route)]) -> Vec<HttpFilter> {
        let rules: Vec<(&str, usize, &Rule)> = routes
            .iter()
            .flat_map(|(route, r)| r.rules.iter().enumerate().map(|(i, rule)| (*route, i, rule)))
            .collect();
        let mut local: BTreeMap<u32, Vec<LocalRateLimitDescriptor>> = BTreeMap::new();
        let mut global = BTreeSet::new();
        for (key, policy, limit) in &self.all {
            let concerned =
                |(route, i, rule): &(&str, usize, &Rule)| meant(policy, route, *i, rule).is_some();
            if !targets_gateway(policy, gateway) && !rules.iter().any(concerned) {
                continue;
            }
            let services = services(policy);
            let backends = rules.iter().flat_map(|(.., rule)| &rule.backends);
            let own = backends.filter(|b| services.contains(&b.service.as_str()));
            let clusters: BTreeSet<Arc<str>> = own.map(|b| names::cluster(&b.service, &b.subset)).collect();
            for (i, one) in limit.limits.iter().enumerate() {
                let stage = self.stage(&Settings::of(limit, one));
                if messages::is_local(one) {
                    let descriptors = messages::local_descriptors(key.name.as_str(), one, i, &clusters);
                    local.entry(stage).or_default().extend(descriptors);
                } else {
                    global.insert(stage);
                }
            }
        }
        let settings = |stage: &u32| self.stages.get(usize::try_from(*stage).ok()?);
        let local = local.into_iter().filter_map(|(stage, descriptors)| {
            let filter = messages::local_filter(settings(&stage)?, stage, descriptors)?;
            Some(http_filter(format!("portolan.local_rate_limit/{stage}"), &filter))
        });
        let global = global.iter().filter_map(|stage| {
            let filter = messages::global_filter(settings(stage)?, *stage)?;
            Some(http_filter(format!("portolan.rate_limit/{stage}"), &filter))
        });
        local.chain(global).collect()
    }

    /// Adds to one route of a gateway what policies say of it.
    pub(super) fn apply(
        &self,
        gateway: &str,
        object: &str,
        index: usize,
        rule: &Rule,
        route: &mut EnvoyRoute,
    ) {
        let Some(Action::Route(action)) = &mut route.action else { return };
        let name = names::route(object, &rule.name, index);
        for (key, policy, limit) in &self.all {
            let about = match (targets_gateway(policy, gateway), meant(policy, object, index, rule)) {
                (true, _) => About::Everything,
                (false, Some(about)) => about,
                (false, None) => continue,
            };
            for (i, one) in limit.limits.iter().enumerate() {
                let actions = messages::actions(key.name.as_str(), one, i, about, &name);
                let stage = self.stage(&Settings::of(limit, one));
                action.rate_limits.push(messages::limit_of_route(actions, stage));
            }
        }
    }

    /// The domain of the limits in these policies.
    fn domain(&self) -> Option<RateLimitDomain> {
        let descriptors: Vec<_> = self
            .all
            .iter()
            .flat_map(|(key, policy, limit)| {
                let services = services(policy);
                messages::descriptors(key.name.as_str(), limit, &services).collect::<Vec<_>>()
            })
            .collect();
        let domain = OWN_DOMAIN.to_owned();
        (!descriptors.is_empty()).then_some(RateLimitDomain { domain, descriptors })
    }
}

/// Every domain of the rate-limit service, out of the policies in force.
pub(super) fn domains<'a>(in_force: impl Iterator<Item = &'a Object>) -> Vec<RateLimitDomain> {
    let policies: Vec<(&ObjectKey, &Policy)> = in_force.filter_map(|o| Some((&o.key, o.policy()?))).collect();
    let own = Policies::new(policies.iter().copied()).domain();
    let named = policies.iter().filter_map(|(_, policy)| match &policy.policy {
        Some(Member::RateLimitDomain(domain)) => Some(domain.clone()),
        _ => None,
    });
    own.into_iter().chain(named).collect()
}

/// Reports what Envoy's protos would refuse of a policy's filters.
pub(super) fn check(key: &ObjectKey, policy: &Policy, found: &mut Problems) {
    let Some(Member::RateLimit(limit)) = &policy.policy else { return };
    let (name, no_clusters) = (key.name.as_str(), BTreeSet::new());
    for (i, one) in limit.limits.iter().enumerate() {
        let settings = Settings::of(limit, one);
        if let Some(filter) = messages::global_filter(&settings, 0) {
            check_rules(&filter, key, "ratelimit filter", found);
        }
        let descriptors = messages::local_descriptors(name, one, i, &no_clusters);
        if let Some(filter) = messages::local_filter(&settings, 0, descriptors.collect()) {
            check_rules(&filter, key, "local_ratelimit filter", found);
        }
        let actions = messages::actions(name, one, i, About::Everything, "route");
        check_rules(&messages::limit_of_route(actions, 0), key, "rate limit", found);
    }
}

fn http_filter<M: Message + Name>(name: String, config: &M) -> HttpFilter {
    HttpFilter {
        name,
        config_type: Some(http_filter::ConfigType::TypedConfig(pack(config))),
        ..HttpFilter::default()
    }
}

fn services(policy: &Policy) -> Vec<&str> {
    let of = policy.targets.iter().filter_map(|t| match &t.of {
        Some(Of::Service(name)) => Some(name.as_str()),
        _ => None,
    });
    of.collect()
}

fn targets_gateway(policy: &Policy, gateway: &str) -> bool {
    policy.targets.iter().any(|t| matches!(&t.of, Some(Of::Gateway(name)) if name == gateway))
}

/// Whether a policy targets a rule, by the route or by a service that it sends to.
fn meant(policy: &Policy, object: &str, index: usize, rule: &Rule) -> Option<About> {
    let by_route = policy.targets.iter().any(|t| match &t.of {
        Some(Of::Route(name)) if name == object => t.rule.is_empty() || is_rule(&t.rule, index, rule),
        _ => false,
    });
    let services = services(policy);
    let by_service = rule.backends.iter().any(|b| services.contains(&b.service.as_str()));
    match (by_route, by_service) {
        (true, _) => Some(About::Everything),
        (false, true) => Some(About::Service),
        (false, false) => None,
    }
}

/// Whether a rule is the one of this name, or at this place.
pub(super) fn is_rule(name: &str, index: usize, rule: &Rule) -> bool {
    if rule.name.is_empty() { name == index.to_string() } else { name == rule.name }
}

#[cfg(test)]
mod tests;
