//! How proxies see each service, in a few lines.

use crate::fleet::{Membership, Reporter, report};
use crate::model::{Health, Kind};
use crate::pipeline::View;
use crate::translate;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use xds_types::portolan::api::v1;

/// Proxies named for each service.
const NAMED: usize = 10;

/// Every service that is registered or described, and every subset of one that a proxy has.
pub(super) fn services(
    view: &View,
    seen: &BTreeMap<Arc<str>, Vec<(Reporter, Membership)>>,
) -> Vec<v1::ServiceHealth> {
    let registered = view.world.services().keys().map(|name| name.as_str());
    let described = view.objects.in_force().filter(|o| o.key.kind == Kind::Service);
    let known: BTreeSet<&str> = registered.chain(described.map(|o| o.key.name.as_str())).collect();
    let clusters = seen.keys().map(|name| &**name).filter(|name| known.contains(translate::service_of(name)));
    let shown: BTreeSet<&str> = clusters.chain(known.iter().copied()).collect();
    let one = |cluster: &str| {
        let instances = view.world.instances(translate::service_of(cluster));
        let all = seen.get(cluster).map_or(&[][..], Vec::as_slice);
        let healthy = || all.iter().map(|(_, m)| m.healthy);
        let disagreeing = report::disagreeing(all);
        v1::ServiceHealth {
            cluster: cluster.to_owned(),
            instances: instances.iter().filter(|i| i.health != Health::Unhealthy).count() as u32,
            proxies: all.len() as u32,
            fewest_healthy: healthy().min().unwrap_or(0),
            most_healthy: healthy().max().unwrap_or(0),
            disagreeing: disagreeing.iter().take(NAMED).map(|(who, m)| node(who, m)).collect(),
            disagreeing_count: disagreeing.len() as u32,
        }
    };
    shown.into_iter().map(one).collect()
}

fn node(who: &Reporter, seen: &Membership) -> v1::NodeHealth {
    let Membership { total, healthy, degraded, excluded, ejected, breaker_open } = *seen;
    v1::NodeHealth {
        node: who.id.to_string(),
        group: who.group.to_string(),
        total,
        healthy,
        degraded,
        excluded,
        ejected,
        breaker_open,
    }
}
