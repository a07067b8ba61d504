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

/// One certificate in use.
struct InUse {
    /// In stats.
    name: Box<str>,
    origin: Box<str>,
    certificate: Rc<Certificate>,
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
        let list = |all: &[InUse]| all.iter().map(|one| details(one, now)).collect::<Vec<_>>();
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
        for Group { owner, authorities, chains } in groups {
            for InUse { name, certificate, .. } in authorities.into_iter().chain(chains) {
                let end = ends.entry((owner.clone(), name)).or_insert(i64::MAX);
                *end = certificate.not_after.min(*end);
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
        ends.values().min().map(|end| days(*end, unix_now()))
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
            let mut authorities = Vec::new();
            if let Some(v) = validation
                && let Some(pem) = &v.content.trusted_ca
            {
                let name = v.name.unwrap_or_else(|| UNNAMED.into());
                // Envoy tells of the first, under this name.
                authorities.extend(read(pem).iter().enumerate().map(|(i, certificate)| InUse {
                    name: match i {
                        0 => name.clone(),
                        _ => format!("{name}_{}", certificate.serial).into(),
                    },
                    origin: v.content.ca_origin.clone(),
                    certificate: Rc::clone(certificate),
                }));
            }
            let chains = certificates.into_iter().filter_map(|c| {
                let certificate = Rc::clone(read(&c.content.chain_pem).first()?);
                let name = c.name.unwrap_or_else(|| UNNAMED.into());
                Some(InUse { name, origin: c.content.chain_origin.clone(), certificate })
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

fn details(one: &InUse, now: i64) -> Value {
    let certificate = &one.certificate;
    json!({
        "path": &*one.origin,
        "serial_number": certificate.serial,
        "subject_alt_names": certificate.sans.iter().filter_map(name).collect::<Vec<_>>(),
        "days_until_expiration": days(certificate.not_after, now).to_string(),
        "valid_from": date(certificate.not_before),
        "expiration_time": date(certificate.not_after),
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
