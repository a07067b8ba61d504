//! Certificates in use: `/certs`, and when they expire.

use crate::listener;
use crate::stats::{Gauge, Registry};
use crate::xds::{Context, Owner, Xds};
use data_plane_core::certificate::{Certificate, San};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The name in stats of what is written in place: Envoy hashes the empty name of it.
const UNNAMED: &str = "unnamed_cert_e3b0c442";

const SECONDS_A_DAY: i64 = 24 * 3600;

/// Expiry gauges by owner and certificate name, and certificates parsed before.
#[derive(Default)]
pub(super) struct Certificates {
    gauges: RefCell<BTreeMap<(Owner, Box<str>), Gauge>>,
    parsed: RefCell<Parsed>,
}

/// The certificates of PEM texts seen last, by their address; the text is held, so that no other takes its place.
type Parsed = HashMap<*const u8, (Arc<[u8]>, Rc<[Rc<Certificate>]>)>;

/// Authorities of one bundle that have gauges of their own; in a larger one, as systems have, the first alone.
const GAUGES: usize = 16;

/// A certificate, or a bundle of authorities, in use.
struct InUse {
    /// In stats.
    name: Box<str>,
    origin: Box<str>,
    certificates: Rc<[Rc<Certificate>]>,
}

impl InUse {
    /// The certificates that have gauges, by their names in stats. Envoy tells of the first, under the bundle's name.
    fn gauged(&self) -> impl Iterator<Item = (Box<str>, i64)> {
        let named = if self.certificates.len() <= GAUGES { self.certificates.len() } else { 1 };
        self.certificates[..named].iter().enumerate().map(|(i, certificate)| {
            let name = match i {
                0 => self.name.clone(),
                _ => format!("{}_{}", self.name, certificate.serial).into(),
            };
            (name, certificate.not_after)
        })
    }
}

/// The certificates of one context.
struct Group {
    owner: Owner,
    authorities: Vec<InUse>,
    chains: Vec<InUse>,
}

impl Certificates {
    /// `/certs`, as Envoy writes it.
    pub(super) fn page(&self, xds: &Xds) -> Value {
        let now = unix_now();
        let list = |all: &[InUse]| all.iter().flat_map(|one| details(one, now)).collect::<Vec<_>>();
        let groups = self.groups(xds);
        let groups = groups.iter().filter(|g| !g.authorities.is_empty() || !g.chains.is_empty());
        let certificates: Vec<Value> = groups
            .map(|g| json!({ "ca_cert": list(&g.authorities), "cert_chain": list(&g.chains) }))
            .collect();
        json!({ "certificates": certificates })
    }

    /// Brings expiry gauges up to date. Returns the days until the first of all expires.
    pub(super) fn refresh(
        &self,
        xds: &Xds,
        listeners: &listener::Manager,
        registry: &Registry,
    ) -> Option<u64> {
        let groups = self.groups(xds);
        if groups.is_empty() {
            self.gauges.borrow_mut().clear();
            return None;
        }
        let mut ends: BTreeMap<(Owner, Box<str>), i64> = BTreeMap::new();
        let mut first = None;
        for Group { owner, authorities, chains } in groups {
            for one in authorities.iter().chain(&chains) {
                first = first.into_iter().chain(one.certificates.iter().map(|c| c.not_after)).min();
                for (name, not_after) in one.gauged() {
                    let end = ends.entry((owner.clone(), name)).or_insert(i64::MAX);
                    *end = not_after.min(*end);
                }
            }
        }
        let mut gauges = self.gauges.borrow_mut();
        gauges.retain(|key, _| ends.contains_key(key));
        let mut scopes = listeners.stat_scopes();
        for (key, end) in &ends {
            if !gauges.contains_key(key) {
                let Some(gauge) = gauge(key, registry, &mut scopes) else { continue };
                gauges.insert(key.clone(), gauge);
            }
            if let Some(gauge) = gauges.get(key) {
                gauge.set(u64::try_from(*end).unwrap_or(0));
            }
        }
        first.map(|end| days(end, unix_now()))
    }

    fn groups(&self, xds: &Xds) -> Vec<Group> {
        let mut parsed = self.parsed.borrow_mut();
        let mut next = Parsed::new();
        let contexts = xds.tls_contexts();
        let groups = contexts.into_iter().map(|context| {
            let Context { owner, certificates, validation } = context;
            let mut read = |pem: &Arc<[u8]>| {
                let key = pem.as_ptr();
                let known = parsed.remove(&key).or_else(|| next.get(&key).cloned());
                let entry = known.unwrap_or_else(|| (Arc::clone(pem), all(pem)));
                let certificates = Rc::clone(&entry.1);
                next.insert(key, entry);
                certificates
            };
            let name = |name: Option<Box<str>>| name.unwrap_or_else(|| UNNAMED.into());
            let authorities = validation.and_then(|v| {
                let certificates = read(v.content.trusted_ca.as_ref()?);
                Some(InUse { name: name(v.name), origin: v.content.ca_origin.clone(), certificates })
            });
            let authorities = authorities.filter(|a| !a.certificates.is_empty()).into_iter().collect();
            let chains = certificates.into_iter().filter_map(|c| {
                let certificates = Rc::from([Rc::clone(read(&c.content.chain_pem).first()?)]);
                Some(InUse { name: name(c.name), origin: c.content.chain_origin.clone(), certificates })
            });
            let chains = chains.collect();
            Group { owner, authorities, chains }
        });
        let groups = groups.collect();
        *parsed = next;
        groups
    }
}

/// The gauge of a certificate; `None` while its listener is not bound.
fn gauge(
    (owner, name): &(Owner, Box<str>),
    registry: &Registry,
    listeners: &mut BTreeMap<Box<str>, crate::stats::Scope>,
) -> Option<Gauge> {
    let scope = match owner {
        Owner::Listener(listener) => listeners.get(listener)?.clone(),
        Owner::Cluster(cluster) => {
            registry.scope(&format!("cluster.{cluster}."), "cluster.", &[("envoy_cluster_name", cluster)])
        }
    };
    let scope = scope.child(
        &format!("ssl.certificate.{name}."),
        "ssl.certificate.",
        &[("envoy_tls_certificate", name)],
    );
    Some(scope.gauge(&["expiration_unix_time_seconds"]))
}

/// The certificates of a PEM text, as far as they can be read: a bundle of authorities may hold one that cannot.
fn all(pem: &[u8]) -> Rc<[Rc<Certificate>]> {
    let read = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok);
    read.filter_map(|der| Certificate::parse(&der).ok()).map(Rc::new).collect()
}

fn details(one: &InUse, now: i64) -> impl Iterator<Item = Value> {
    one.certificates.iter().map(move |certificate| {
        json!({
            "path": &*one.origin,
            "serial_number": certificate.serial,
            "subject_alt_names": certificate.sans.iter().filter_map(name).collect::<Vec<_>>(),
            "days_until_expiration": days(certificate.not_after, now).to_string(),
            "valid_from": date(certificate.not_before),
            "expiration_time": date(certificate.not_after),
        })
    })
}

/// Envoy shows names of these three types.
fn name(san: &San) -> Option<Value> {
    match san {
        San::Dns(name) => Some(json!({ "dns": name })),
        San::Uri(uri) => Some(json!({ "uri": uri })),
        San::Ip(address) => Some(json!({ "ip_address": address.to_string() })),
        _ => None,
    }
}

/// Whole days left; zero once it is over.
fn days(end: i64, now: i64) -> u64 {
    u64::try_from((end - now).div_euclid(SECONDS_A_DAY)).unwrap_or(0)
}

fn date(seconds: i64) -> String {
    let at = OffsetDateTime::from_unix_timestamp(seconds).ok().and_then(|at| at.format(&Rfc3339).ok());
    at.unwrap_or_default()
}

fn unix_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_whole_and_never_negative() {
        assert_eq!(days(10 * SECONDS_A_DAY, 0), 10);
        assert_eq!(days(10 * SECONDS_A_DAY - 1, 0), 9);
        assert_eq!(days(0, 5), 0);
    }

    #[test]
    fn dates_are_written_as_envoy_does() {
        assert_eq!(date(1_797_829_397), "2026-12-21T05:03:17Z");
    }
}
