//! When a cluster's names are resolved again.

use super::{Answer, Resolve, ResolveError};
use data_plane_core::config::{Assignment, DnsOptions, Endpoint, EndpointAddress};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// Deadline of one resolution, whatever the resolver does.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Which addresses of a name become hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum Names {
    /// Every one (STRICT_DNS).
    All,
    /// The first (LOGICAL_DNS).
    First,
}

/// A step of resolving a cluster's names, told to the caller of [`refresh`].
#[derive(Debug)]
pub(in crate::upstream) enum Event {
    /// A name is being resolved.
    Attempt,
    /// It failed; what it resolved to before stays.
    Failure {
        /// The name.
        name: Arc<str>,
        /// Why.
        error: ResolveError,
        /// Failures in a row before this one.
        before: u32,
    },
    /// It resolved to nothing.
    Empty,
    /// It resolved.
    Success,
    /// Every name has been tried: these are the endpoints, all with IP addresses.
    Endpoints(Assignment),
}

/// Resolves the names of `assignment`, again and again, each in its own time. `queries` bounds the questions
/// under way at a time, over all clusters. Never ends; dropping it stops.
pub(in crate::upstream) async fn refresh(
    assignment: Arc<Assignment>,
    options: DnsOptions,
    names: Names,
    resolver: Arc<dyn Resolve>,
    queries: Arc<Semaphore>,
    mut tell: impl FnMut(Event),
) {
    let mut known: BTreeMap<Arc<str>, Vec<IpAddr>> = BTreeMap::new();
    let mut untried: usize = 0;
    let mut pending = FuturesUnordered::new();
    let step = |name: Arc<str>, failures: u32, wait: Duration| {
        let (resolver, queries, options) = (&resolver, &queries, &options);
        async move {
            sleep(wait).await;
            // INVARIANT: the semaphore is never closed.
            let _permit = queries.acquire().await;
            let result = timeout(RESOLVE_TIMEOUT, resolver.resolve(&name, options)).await;
            (name, failures, result.unwrap_or(Err(ResolveError::Timeout)))
        }
    };
    for name in distinct_names(&assignment) {
        tell(Event::Attempt);
        untried += 1;
        pending.push(step(name, 0, Duration::ZERO));
    }
    if untried == 0 {
        tell(Event::Endpoints(resolved(&assignment, &known, names)));
    }
    while let Some((name, failures, result)) = pending.next().await {
        let first_try = !known.contains_key(&name);
        let (wait, failures, changed) = match result {
            Ok(mut answer) => {
                if names == Names::All {
                    // Servers rotate their answers; the set is what matters.
                    answer.addresses.sort_unstable();
                    answer.addresses.dedup();
                }
                tell(if answer.addresses.is_empty() { Event::Empty } else { Event::Success });
                let wait = wait_after(&answer, &options);
                let changed = known.insert(Arc::clone(&name), answer.addresses);
                (wait, 0, changed.as_ref() != known.get(&name))
            }
            Err(error) => {
                let wait = backoff(&options, failures, fastrand::f64());
                tell(Event::Failure { name: Arc::clone(&name), error, before: failures });
                known.entry(Arc::clone(&name)).or_default();
                (wait, failures.saturating_add(1), false)
            }
        };
        untried -= usize::from(first_try);
        if untried == 0 && (changed || first_try) {
            tell(Event::Endpoints(resolved(&assignment, &known, names)));
        }
        tell(Event::Attempt);
        pending.push(step(name, failures, wait));
    }
    std::future::pending().await
}

fn distinct_names(assignment: &Assignment) -> Vec<Arc<str>> {
    let mut names: Vec<Arc<str>> = Vec::new();
    for endpoint in assignment.localities.iter().flat_map(|l| &l.endpoints) {
        if let EndpointAddress::Name(name, _) = &endpoint.address
            && !names.iter().any(|n| **n == **name)
        {
            names.push(name.as_ref().into());
        }
    }
    names
}

/// Time until a name that resolved is resolved again.
fn wait_after(answer: &Answer, options: &DnsOptions) -> Duration {
    // Envoy: a TTL of zero counts as none.
    match answer.ttl {
        Some(ttl) if options.respect_ttl && !ttl.is_zero() => ttl,
        _ => options.refresh_rate,
    }
}

/// Time until a name that failed is tried again: a random share of a window that doubles from the base to the
/// cap, after the first failure the base. `roll` is in `0..1`.
fn backoff(options: &DnsOptions, failures: u32, roll: f64) -> Duration {
    let Some((base, cap)) = options.failure_refresh else { return options.refresh_rate };
    let window = base.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX)).min(cap);
    // Never at once: a failing server must not be asked in a tight loop.
    window.mul_f64(roll).max(base.min(cap) / 10).max(Duration::from_millis(1))
}

/// The assignment with addresses in the place of names.
fn resolved(assignment: &Assignment, known: &BTreeMap<Arc<str>, Vec<IpAddr>>, names: Names) -> Assignment {
    let expand = |endpoint: &Endpoint| -> Vec<Endpoint> {
        let EndpointAddress::Name(name, port) = &endpoint.address else { return vec![endpoint.clone()] };
        let addresses = known.get(&**name).map_or(&[][..], Vec::as_slice);
        let taken = match names {
            Names::All => addresses,
            Names::First => &addresses[..addresses.len().min(1)],
        };
        taken
            .iter()
            .map(|ip| Endpoint {
                address: EndpointAddress::Socket(SocketAddr::new(*ip, *port)),
                hostname: if endpoint.hostname.is_empty() { name.clone() } else { endpoint.hostname.clone() },
                ..endpoint.clone()
            })
            .collect()
    };
    let mut out = assignment.clone();
    for locality in &mut out.localities {
        locality.endpoints = locality.endpoints.iter().flat_map(expand).collect();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::testing::{dns_options, endpoint, group, socket};
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;
    use parking_lot::Mutex;

    #[test]
    fn backoff_is_a_random_share_of_a_window_that_doubles_up_to_its_cap() {
        let ms = Duration::from_millis;
        let options = DnsOptions { failure_refresh: Some((ms(100), ms(1000))), ..dns_options() };
        for (failures, roll, expected) in [
            (0, 0.5, ms(50)),
            (0, 0.0, ms(10)),
            (1, 0.5, ms(100)),
            (3, 0.5, ms(400)),
            (4, 0.5, ms(500)),
            (40, 0.5, ms(500)),
        ] {
            assert_eq!(backoff(&options, failures, roll), expected, "{failures} failures, roll {roll}");
        }
        assert_eq!(
            backoff(&dns_options(), 7, 0.1),
            dns_options().refresh_rate,
            "without one, the refresh rate"
        );
    }

    /// `slow.test` never answers, `web.test` always.
    struct OneSlow;

    impl Resolve for OneSlow {
        fn resolve<'a>(
            &'a self,
            name: &'a str,
            _: &'a DnsOptions,
        ) -> BoxFuture<'a, Result<Answer, ResolveError>> {
            if name == "slow.test" {
                return std::future::pending().boxed();
            }
            let addresses = vec![IpAddr::from([192, 0, 2, 2]), IpAddr::from([192, 0, 2, 1])];
            async move { Ok(Answer { addresses, ttl: None }) }.boxed()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_without_an_answer_has_a_deadline_and_does_not_hold_up_others_for_long() {
        let name = |name: &str| endpoint(EndpointAddress::Name(name.into(), 80));
        let fixed = socket("192.0.2.9:80".parse().unwrap());
        let assignment = Arc::new(group(vec![name("slow.test"), name("web.test"), fixed]));
        let told = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&told);
        let started = tokio::time::Instant::now();
        let refreshing = refresh(
            assignment,
            dns_options(),
            Names::All,
            Arc::new(OneSlow),
            Arc::new(Semaphore::new(2)),
            move |event| sink.lock().push((started.elapsed(), event)),
        );
        let _ = timeout(Duration::from_secs(11), refreshing).await;
        let told = told.lock();
        let (when, endpoints) = told
            .iter()
            .find_map(|(when, event)| match event {
                Event::Endpoints(assignment) => Some((*when, &assignment.localities[0].endpoints)),
                _ => None,
            })
            .expect("warming ends");
        assert_eq!(when, RESOLVE_TIMEOUT);
        let addresses: Vec<_> = endpoints.iter().map(|e| &e.address).collect();
        let expected = ["192.0.2.1:80", "192.0.2.2:80", "192.0.2.9:80"]
            .map(|a| EndpointAddress::Socket(a.parse().unwrap()));
        assert_eq!(addresses, expected.iter().collect::<Vec<_>>(), "in a stable order");
        assert!(told.iter().any(|(_, e)| matches!(e, Event::Failure { error: ResolveError::Timeout, .. })));
    }
}
