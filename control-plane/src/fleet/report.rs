//! What proxies have reported, and how long it counts. Pure: time comes as an argument.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What was reported counts for so long: twelve of the default intervals.
pub const COUNTS_FOR: Duration = Duration::from_secs(60);
/// What no longer counts is looked for this often.
const SWEEP: Duration = Duration::from_secs(5);
/// Proxies that are kept; more are passed over.
const MAX_REPORTERS: usize = 10_000;
/// Clusters of all proxies together; more are passed over.
const MAX_ENTRIES: usize = 500_000;
/// Longest name of a cluster, bytes.
const MAX_NAME: usize = 512;

/// Who reports. Proxies that were given one node id by mistake are told apart by their addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reporter {
    /// `node.id`.
    pub id: Arc<str>,
    /// Node group (`node.cluster`).
    pub group: Arc<str>,
    /// Where it connects from.
    pub address: Option<IpAddr>,
}

/// A cluster as one proxy sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Hosts it has.
    pub total: u32,
    /// Of these, hosts that it sends requests to.
    pub healthy: u32,
    /// Hosts that get requests only when healthy ones are short.
    pub degraded: u32,
    /// Hosts that count for nothing.
    pub excluded: u32,
    /// Hosts ejected by outlier detection.
    pub ejected: u32,
    /// Its circuit breaker, which only our proxy has, is open or half open.
    pub breaker_open: bool,
}

/// One number of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat<'a> {
    /// The cluster.
    pub cluster: &'a str,
    field: Field,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Total,
    Healthy,
    Degraded,
    Excluded,
    Ejected,
    Breaker,
}

const FIELDS: &[(&str, Field)] = &[
    (".membership_total", Field::Total),
    (".membership_healthy", Field::Healthy),
    (".membership_degraded", Field::Degraded),
    (".membership_excluded", Field::Excluded),
    (".outlier_detection.ejections_active", Field::Ejected),
    (".circuit_breaker.state", Field::Breaker),
];

impl<'a> Stat<'a> {
    /// What a metric of this name tells; `None`: nothing of interest.
    pub fn named(name: &'a str) -> Option<Self> {
        let rest = name.strip_prefix("cluster.")?;
        FIELDS.iter().find_map(|(suffix, field)| {
            let cluster = rest.strip_suffix(suffix).filter(|c| !c.is_empty() && c.len() <= MAX_NAME)?;
            Some(Self { cluster, field: *field })
        })
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    membership: Membership,
    at: Instant,
}

/// Everything that counts.
#[derive(Debug, Default)]
pub struct Reports {
    by_reporter: BTreeMap<Reporter, BTreeMap<Arc<str>, Entry>>,
    entries: usize,
    swept: Option<Instant>,
}

impl Reports {
    /// Takes in one number. Answers whether there was room for it.
    pub fn take(&mut self, from: &Reporter, stat: Stat<'_>, value: u64, now: Instant) -> bool {
        if !self.by_reporter.contains_key(from) {
            if self.by_reporter.len() >= MAX_REPORTERS {
                return false;
            }
            self.by_reporter.insert(from.clone(), BTreeMap::new());
        }
        let Some(clusters) = self.by_reporter.get_mut(from) else { return false };
        if !clusters.contains_key(stat.cluster) {
            if self.entries >= MAX_ENTRIES {
                return false;
            }
            self.entries += 1;
            clusters.insert(stat.cluster.into(), Entry { membership: Membership::default(), at: now });
        }
        let Some(entry) = clusters.get_mut(stat.cluster) else { return false };
        entry.at = now;
        let number = u32::try_from(value).unwrap_or(u32::MAX);
        let m = &mut entry.membership;
        match stat.field {
            Field::Total => m.total = number,
            Field::Healthy => m.healthy = number,
            Field::Degraded => m.degraded = number,
            Field::Excluded => m.excluded = number,
            Field::Ejected => m.ejected = number,
            Field::Breaker => m.breaker_open = number != 0,
        }
        true
    }

    /// Forgets a proxy that is known to be gone.
    pub fn forget(&mut self, from: &Reporter) {
        self.entries -= self.by_reporter.remove(from).map_or(0, |clusters| clusters.len());
    }

    /// Forgets what no longer counts. Cheap when called often.
    pub fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|at| now < at + SWEEP) {
            return;
        }
        self.swept = Some(now);
        self.by_reporter.retain(|_, clusters| {
            clusters.retain(|_, entry| now < entry.at + COUNTS_FOR);
            !clusters.is_empty()
        });
        self.entries = self.by_reporter.values().map(BTreeMap::len).sum();
    }

    /// Every cluster and who sees it how, of one group or of all.
    pub fn clusters(&self, group: &str, now: Instant) -> BTreeMap<Arc<str>, Vec<(Reporter, Membership)>> {
        let mut out: BTreeMap<Arc<str>, Vec<(Reporter, Membership)>> = BTreeMap::new();
        for (reporter, clusters) in &self.by_reporter {
            if !group.is_empty() && *reporter.group != *group {
                continue;
            }
            for (name, entry) in clusters.iter().filter(|(_, entry)| now < entry.at + COUNTS_FOR) {
                out.entry(name.clone()).or_default().push((reporter.clone(), entry.membership));
            }
        }
        out
    }

    /// Proxies that report.
    pub fn len(&self) -> usize {
        self.by_reporter.len()
    }

    /// Whether nobody reports.
    pub fn is_empty(&self) -> bool {
        self.by_reporter.is_empty()
    }
}

/// Those that see a cluster otherwise than most do; among equally many, those that see fewer healthy hosts.
pub fn disagreeing(seen: &[(Reporter, Membership)]) -> Vec<&(Reporter, Membership)> {
    let view = |m: &Membership| (m.healthy, m.total);
    let mut counts: BTreeMap<(u32, u32), usize> = BTreeMap::new();
    for (_, m) in seen {
        *counts.entry(view(m)).or_default() += 1;
    }
    let most = counts.iter().max_by_key(|(view, count)| (**count, **view)).map(|(view, _)| *view);
    seen.iter().filter(|(_, m)| Some(view(m)) != most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reporter(id: &str) -> Reporter {
        Reporter { id: id.into(), group: "edge".into(), address: None }
    }

    fn take(reports: &mut Reports, id: &str, name: &str, value: u64, now: Instant) -> bool {
        reports.take(&reporter(id), Stat::named(name).unwrap(), value, now)
    }

    fn seen(reports: &Reports, cluster: &str, now: Instant) -> Vec<(u32, u32)> {
        let all = reports.clusters("", now);
        all.get(cluster).into_iter().flatten().map(|(_, m)| (m.healthy, m.total)).collect()
    }

    #[test]
    fn only_what_tells_of_members_is_of_interest() {
        for (name, cluster) in [
            ("cluster.web.membership_total", Some("web")),
            ("cluster.web.v2.membership_healthy", Some("web.v2")),
            ("cluster.web/canary.membership_degraded", Some("web/canary")),
            ("cluster.web.outlier_detection.ejections_active", Some("web")),
            ("cluster.web.circuit_breaker.state", Some("web")),
            ("cluster.web.upstream_rq_total", None),
            ("cluster.membership_total", None),
            ("cluster..membership_total", None),
            ("http.web.membership_total", None),
        ] {
            assert_eq!(Stat::named(name).map(|s| s.cluster), cluster, "{name}");
        }
        let long = format!("cluster.{}.membership_total", "x".repeat(MAX_NAME + 1));
        assert_eq!(Stat::named(&long), None);
    }

    #[test]
    fn a_report_counts_until_it_is_too_old_and_each_cluster_by_itself() {
        let (mut reports, start) = (Reports::default(), Instant::now());
        for (name, value) in
            [("web.membership_total", 4), ("web.membership_healthy", 3), ("old.membership_total", 1)]
        {
            assert!(take(&mut reports, "a", &format!("cluster.{name}"), value, start));
        }
        assert_eq!(seen(&reports, "web", start), [(3, 4)]);
        let later = start + COUNTS_FOR - Duration::from_secs(1);
        take(&mut reports, "a", "cluster.web.membership_healthy", 2, later);
        let end = start + COUNTS_FOR;
        assert_eq!(seen(&reports, "web", end), [(2, 4)]);
        assert_eq!(seen(&reports, "old", end), []);
        reports.sweep(end);
        assert_eq!((reports.len(), reports.entries), (1, 1));
        reports.sweep(later + COUNTS_FOR + SWEEP);
        assert_eq!((reports.is_empty(), reports.entries), (true, 0));
    }

    #[test]
    fn one_that_is_gone_is_forgotten_and_groups_are_apart() {
        let (mut reports, now) = (Reports::default(), Instant::now());
        take(&mut reports, "a", "cluster.web.membership_total", 1, now);
        take(&mut reports, "b", "cluster.web.membership_total", 2, now);
        assert_eq!(reports.clusters("pay", now).len(), 0);
        assert_eq!(reports.clusters("edge", now)["web"].len(), 2);
        reports.forget(&reporter("a"));
        assert_eq!(seen(&reports, "web", now), [(0, 2)]);
        reports.forget(&reporter("never"));
        assert_eq!(reports.entries, 1);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let (mut reports, now) = (Reports::default(), Instant::now());
        for n in 0..MAX_REPORTERS {
            assert!(take(&mut reports, &n.to_string(), "cluster.web.membership_total", 1, now));
        }
        assert!(!take(&mut reports, "more", "cluster.web.membership_total", 1, now));
        assert!(take(&mut reports, "0", "cluster.web.membership_total", 2, now), "known ones go on");
        let mut n = 0;
        while take(&mut reports, "1", &format!("cluster.c{n}.membership_total"), 1, now) {
            n += 1;
        }
        assert_eq!(reports.entries, MAX_ENTRIES);
    }

    #[test]
    fn those_disagree_who_are_fewer_or_see_fewer_healthy() {
        let one =
            |id: &str, healthy| (reporter(id), Membership { total: 4, healthy, ..Membership::default() });
        for (seen, expected) in [
            (vec![], vec![]),
            (vec![one("a", 2), one("b", 2)], vec![]),
            (vec![one("a", 4), one("b", 2), one("c", 4)], vec!["b"]),
            (vec![one("a", 2), one("b", 2), one("c", 4)], vec!["c"]),
            (vec![one("a", 4), one("b", 2)], vec!["b"]),
        ] {
            let ids: Vec<&str> = disagreeing(&seen).iter().map(|(r, _)| &*r.id).collect();
            assert_eq!(ids, expected, "{seen:?}");
        }
    }
}
