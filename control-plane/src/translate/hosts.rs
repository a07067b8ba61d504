//! Which virtual host serves which Route: hosts of routes met with host names of listeners.

use std::collections::BTreeMap;

/// Whether every host that `narrow` takes is taken by `wide`. Both lowercase; `*` takes all.
fn covers(wide: &str, narrow: &str) -> bool {
    if wide == "*" || wide == narrow {
        return true;
    }
    // `*.a.com` takes `x.a.com` and `*.x.a.com`, not `a.com`.
    let Some(suffix) = wide.strip_prefix('*') else { return false };
    let narrow = narrow.strip_prefix('*').unwrap_or(narrow);
    narrow.len() > suffix.len() && narrow.ends_with(suffix)
}

/// The hosts that a route gets on a listener. Empty lists stand for all hosts.
pub(super) fn effective(route: &[String], listener: &[String]) -> Vec<String> {
    let all = |hosts: &[String]| -> Vec<String> {
        if hosts.is_empty() {
            vec!["*".to_owned()]
        } else {
            hosts.iter().map(|h| h.to_ascii_lowercase()).collect()
        }
    };
    let (route, listener) = (all(route), all(listener));
    let mut hosts: Vec<String> = Vec::new();
    for r in &route {
        for l in &listener {
            let both = if covers(l, r) {
                r
            } else if covers(r, l) {
                l
            } else {
                continue;
            };
            hosts.push(both.clone());
        }
    }
    hosts.sort();
    hosts.dedup();
    hosts
}

/// Domains that are served alike, and the routes that serve them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Group<T> {
    /// Sorted; of no two groups.
    pub domains: Vec<String>,
    /// In the order in which they were given.
    pub routes: Vec<T>,
}

/// Groups domains by the routes that serve them. Routes are given in the order in which they are to be asked.
pub(super) fn group<T: Ord + Copy>(routes: impl IntoIterator<Item = (T, Vec<String>)>) -> Vec<Group<T>> {
    let mut by_domain: BTreeMap<String, Vec<T>> = BTreeMap::new();
    for (route, hosts) in routes {
        for host in hosts {
            by_domain.entry(host).or_default().push(route);
        }
    }
    let mut by_routes: BTreeMap<Vec<T>, Vec<String>> = BTreeMap::new();
    for (domain, routes) in by_domain {
        by_routes.entry(routes).or_default().push(domain);
    }
    let mut groups: Vec<Group<T>> =
        by_routes.into_iter().map(|(routes, domains)| Group { domains, routes }).collect();
    groups.sort_by(|a, b| a.domains.cmp(&b.domains));
    groups
}

/// How exactly hosts mean a name: exact, then the longer suffix, then all. `None`: they do not.
pub(super) fn exactness(hosts: &[String], name: &str) -> Option<usize> {
    let name = name.to_ascii_lowercase();
    if hosts.is_empty() {
        return Some(0);
    }
    let one = |host: &String| {
        let host = host.to_ascii_lowercase();
        match host.as_str() {
            "*" => Some(0),
            exact if exact == name => Some(usize::MAX),
            _ if covers(&host, &name) => Some(host.len()),
            _ => None,
        }
    };
    hosts.iter().filter_map(one).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_route_gets_the_hosts_that_both_it_and_the_listener_take() {
        let table: &[(&[&str], &[&str], &[&str])] = &[
            (&[], &[], &["*"]),
            (&["a.com"], &[], &["a.com"]),
            (&[], &["a.com"], &["a.com"]),
            (&["A.com"], &["a.COM"], &["a.com"]),
            (&["x.a.com"], &["*.a.com"], &["x.a.com"]),
            (&["*.a.com"], &["x.a.com", "b.com"], &["x.a.com"]),
            (&["*.b.a.com"], &["*.a.com"], &["*.b.a.com"]),
            (&["*.a.com"], &["*.b.a.com"], &["*.b.a.com"]),
            (&["a.com"], &["*.a.com"], &[]),
            (&["xa.com"], &["*.a.com"], &[]),
            (&["b.com"], &["a.com"], &[]),
            (&["*"], &["*.a.com", "b.com"], &["*.a.com", "b.com"]),
        ];
        for (route, listener, both) in table {
            assert_eq!(effective(&hosts(route), &hosts(listener)), hosts(both), "{route:?} on {listener:?}");
        }
    }

    #[test]
    fn domains_served_by_the_same_routes_share_a_virtual_host() {
        let groups = group([(1, hosts(&["a", "b"])), (2, hosts(&["b", "c"])), (3, hosts(&["a"]))]);
        assert_eq!(
            groups,
            [
                Group { domains: hosts(&["a"]), routes: vec![1, 3] },
                Group { domains: hosts(&["b"]), routes: vec![1, 2] },
                Group { domains: hosts(&["c"]), routes: vec![2] },
            ]
        );
        assert_eq!(group([(1, hosts(&["a", "b"]))]).len(), 1);
    }

    #[test]
    fn the_most_exact_host_counts() {
        assert_eq!(exactness(&hosts(&["*", "cart"]), "cart"), Some(usize::MAX));
        assert!(exactness(&hosts(&["*.prod"]), "cart.prod") > exactness(&hosts(&[]), "cart.prod"));
        assert_eq!(exactness(&hosts(&["pay"]), "cart"), None);
    }
}
