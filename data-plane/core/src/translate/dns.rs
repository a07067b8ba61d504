//! DNS knobs of clusters and resolvers: the extension messages and the deprecated fields they replaced.

use super::field::{self, ignored, required, unsupported};
use super::{Options, address, duration, extension};
use crate::config::{DnsFamily, DnsOptions, DnsResolver};
use crate::path::{Diagnostics, Path, Rejected};
use std::net::SocketAddr;
use std::time::Duration;
use xds_types::envoy::config::cluster::v3::cluster::{DnsLookupFamily as OldFamily, RefreshRate as OldRate};
use xds_types::envoy::config::core::v3 as core_proto;
use xds_types::envoy::extensions::clusters::common::dns::v3::DnsLookupFamily as NewFamily;
use xds_types::envoy::extensions::clusters::dns::v3::DnsCluster;
use xds_types::envoy::extensions::clusters::dns::v3::dns_cluster::RefreshRate as NewRate;
use xds_types::envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;
use xds_types::envoy::extensions::network::dns_resolver::getaddrinfo::v3::GetAddrInfoDnsResolverConfig;
use xds_types::google::protobuf::{BoolValue, Duration as ProtoDuration};

/// Envoy's default of `dns_refresh_rate`.
const REFRESH_RATE: Duration = Duration::from_secs(5);

/// The cluster's own fields, most of them deprecated in favour of the `DnsCluster` extension.
pub(super) struct Legacy {
    pub(super) dns_refresh_rate: Option<ProtoDuration>,
    pub(super) dns_jitter: Option<ProtoDuration>,
    pub(super) dns_failure_refresh_rate: Option<OldRate>,
    pub(super) respect_dns_ttl: bool,
    pub(super) dns_lookup_family: i32,
    pub(super) dns_resolvers: Vec<core_proto::Address>,
    pub(super) use_tcp_for_dns_lookups: bool,
    pub(super) dns_resolution_config: Option<core_proto::DnsResolutionConfig>,
    pub(super) typed_dns_resolver_config: Option<core_proto::TypedExtensionConfig>,
    pub(super) wait_for_warm_on_init: Option<BoolValue>,
}

impl Legacy {
    /// The knobs of a DNS cluster.
    pub(super) fn options(self, at: &Path<'_>, d: &mut Diagnostics, o: &Options<'_>) -> DnsOptions {
        let Self {
            dns_refresh_rate,
            dns_jitter,
            dns_failure_refresh_rate,
            respect_dns_ttl,
            dns_lookup_family,
            dns_resolvers,
            use_tcp_for_dns_lookups,
            dns_resolution_config,
            typed_dns_resolver_config,
            wait_for_warm_on_init,
        } = self;
        ignored!(d, at, "names are resolved at the rate itself"; dns_jitter);
        let family = match field::variant(dns_lookup_family, &at.field("dns_lookup_family"), d) {
            Ok(OldFamily::Auto) | Err(Rejected) => DnsFamily::Auto,
            Ok(OldFamily::V4Only) => DnsFamily::V4Only,
            Ok(OldFamily::V6Only) => DnsFamily::V6Only,
            Ok(OldFamily::V4Preferred) => DnsFamily::V4Preferred,
            Ok(OldFamily::All) => DnsFamily::All,
        };
        let failure = dns_failure_refresh_rate
            .map(|OldRate { base_interval, max_interval }| NewRate { base_interval, max_interval });
        let resolver = OldResolver { dns_resolvers, use_tcp_for_dns_lookups, dns_resolution_config };
        DnsOptions {
            refresh_rate: refresh_rate(dns_refresh_rate, at, d),
            respect_ttl: respect_dns_ttl,
            family,
            failure_refresh: failure_refresh(failure, at, d),
            wait_for_warm: wait_for_warm_on_init.is_none_or(|v| v.value),
            resolver: resolver
                .or_typed(typed_dns_resolver_config, at, d)
                .unwrap_or_else(|| default_resolver(o)),
        }
    }

    /// Reports the fields as without effect. Returns whether to wait for warming, which has no other place.
    pub(super) fn unused(self, why: &'static str, at: &Path<'_>, d: &mut Diagnostics) -> bool {
        let Self {
            dns_refresh_rate,
            dns_jitter,
            dns_failure_refresh_rate,
            respect_dns_ttl,
            dns_lookup_family,
            dns_resolvers,
            use_tcp_for_dns_lookups,
            dns_resolution_config,
            typed_dns_resolver_config,
            wait_for_warm_on_init,
        } = self;
        ignored!(d, at, why;
            dns_refresh_rate,
            dns_jitter,
            dns_failure_refresh_rate,
            respect_dns_ttl,
            dns_lookup_family,
            dns_resolvers,
            use_tcp_for_dns_lookups,
            dns_resolution_config,
            typed_dns_resolver_config,
            wait_for_warm_on_init = true,
        );
        wait_for_warm_on_init.is_none_or(|v| v.value)
    }
}

/// What the answers of a name are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Every address is a host.
    Strict,
    /// One host at a time.
    Logical,
}

/// The `envoy.clusters.dns` extension.
pub(super) fn extension(
    proto: DnsCluster,
    wait_for_warm: bool,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> (DnsOptions, Shape) {
    let DnsCluster {
        dns_refresh_rate,
        dns_failure_refresh_rate,
        respect_dns_ttl,
        dns_jitter,
        typed_dns_resolver_config,
        dns_lookup_family,
        all_addresses_in_single_endpoint,
        dns_min_refresh_rate,
    } = proto;
    ignored!(d, at, "names are resolved at the rate itself"; dns_jitter);
    ignored!(d, at, "the TTL itself is respected"; dns_min_refresh_rate);
    let family = match field::variant(dns_lookup_family, &at.field("dns_lookup_family"), d) {
        Ok(NewFamily::Unspecified | NewFamily::Auto) | Err(Rejected) => DnsFamily::Auto,
        Ok(NewFamily::V4Only) => DnsFamily::V4Only,
        Ok(NewFamily::V6Only) => DnsFamily::V6Only,
        Ok(NewFamily::V4Preferred) => DnsFamily::V4Preferred,
        Ok(NewFamily::All) => DnsFamily::All,
    };
    let options = DnsOptions {
        refresh_rate: refresh_rate(dns_refresh_rate, at, d),
        respect_ttl: respect_dns_ttl,
        family,
        failure_refresh: failure_refresh(dns_failure_refresh_rate, at, d),
        wait_for_warm,
        resolver: typed(typed_dns_resolver_config, at, d).unwrap_or_else(|| default_resolver(o)),
    };
    (options, if all_addresses_in_single_endpoint { Shape::Logical } else { Shape::Strict })
}

fn refresh_rate(proto: Option<ProtoDuration>, at: &Path<'_>, d: &mut Diagnostics) -> Duration {
    let at = at.field("dns_refresh_rate");
    let rate = duration::or(proto, REFRESH_RATE, &at, d);
    if rate < Duration::from_millis(1) {
        d.reject(&at, "must be at least 1 ms");
    }
    rate
}

fn failure_refresh(
    proto: Option<NewRate>,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Option<(Duration, Duration)> {
    let NewRate { base_interval, max_interval } = proto?;
    let at = at.field("dns_failure_refresh_rate");
    let base_at = at.field("base_interval");
    let Some(base) = duration::read(base_interval, &base_at, d).filter(|b| !b.is_zero()) else {
        d.reject(&base_at, "must be longer than zero");
        return None;
    };
    // Envoy's default: ten times the base.
    let max = duration::or(max_interval, base * 10, &at.field("max_interval"), d);
    if max < base {
        d.reject(&at.field("max_interval"), "must not be shorter than base_interval");
    }
    Some((base, max))
}

fn default_resolver(o: &Options<'_>) -> DnsResolver {
    o.sources.map(|s| s.dns.clone()).unwrap_or_default()
}

/// Resolver fields deprecated in favour of `typed_dns_resolver_config`; the bootstrap has them too.
pub(super) struct OldResolver {
    pub(super) dns_resolvers: Vec<core_proto::Address>,
    pub(super) use_tcp_for_dns_lookups: bool,
    pub(super) dns_resolution_config: Option<core_proto::DnsResolutionConfig>,
}

impl OldResolver {
    /// The typed configuration, else the deprecated one, else `None`.
    pub(super) fn or_typed(
        self,
        typed_config: Option<core_proto::TypedExtensionConfig>,
        at: &Path<'_>,
        d: &mut Diagnostics,
    ) -> Option<DnsResolver> {
        let Self { dns_resolvers, use_tcp_for_dns_lookups, dns_resolution_config } = self;
        if typed_config.is_some() {
            ignored!(d, at, "typed_dns_resolver_config takes its place";
                dns_resolvers, use_tcp_for_dns_lookups, dns_resolution_config);
            return typed(typed_config, at, d);
        }
        if let Some(core_proto::DnsResolutionConfig { resolvers, dns_resolver_options }) =
            dns_resolution_config
        {
            ignored!(d, at, "dns_resolution_config takes its place"; dns_resolvers, use_tcp_for_dns_lookups);
            let at = at.field("dns_resolution_config");
            return Some(resolver(servers(resolvers, &at.field("resolvers"), d), dns_resolver_options));
        }
        if dns_resolvers.is_empty() && !use_tcp_for_dns_lookups {
            return None;
        }
        let servers = servers(dns_resolvers, &at.field("dns_resolvers"), d);
        Some(DnsResolver { servers, use_tcp: use_tcp_for_dns_lookups, no_search_domains: false })
    }
}

/// A resolver extension: c-ares' settings are taken over, getaddrinfo is the system.
fn typed(
    proto: Option<core_proto::TypedExtensionConfig>,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Option<DnsResolver> {
    let core_proto::TypedExtensionConfig { name, typed_config } = proto?;
    let at = at.field("typed_dns_resolver_config");
    let packed = required(typed_config, &at.field("typed_config"), d).ok()?;
    let at = at.field("typed_config");
    if extension::is::<CaresDnsResolverConfig>(&packed) {
        return Some(cares(extension::open(&packed, &at, d).ok()?, &at, d));
    }
    if extension::is::<GetAddrInfoDnsResolverConfig>(&packed) {
        let GetAddrInfoDnsResolverConfig { num_retries, num_resolver_threads } =
            extension::open(&packed, &at, d).ok()?;
        ignored!(d, at, "the resolver has settings of its own"; num_retries, num_resolver_threads);
        return Some(DnsResolver::default());
    }
    extension::unknown("DNS resolver", &name, &packed, &at, d);
    None
}

fn cares(proto: CaresDnsResolverConfig, at: &Path<'_>, d: &mut Diagnostics) -> DnsResolver {
    let CaresDnsResolverConfig {
        resolvers,
        use_resolvers_as_fallback,
        filter_unroutable_families,
        dns_resolver_options,
        udp_max_queries,
        query_timeout_seconds,
        query_tries,
        rotate_nameservers,
        edns0_max_payload_size,
        max_udp_channel_duration,
        reinit_channel_on_timeout,
        qcache_max_ttl,
    } = proto;
    unsupported!(d, at, "resolvers either replace the system's or are left out"; use_resolvers_as_fallback);
    ignored!(d, at, "all addresses of the family asked for are used"; filter_unroutable_families);
    ignored!(d, at, "the resolver has settings of its own";
        udp_max_queries,
        query_timeout_seconds,
        query_tries,
        rotate_nameservers,
        edns0_max_payload_size,
        max_udp_channel_duration,
        reinit_channel_on_timeout,
        qcache_max_ttl,
    );
    resolver(servers(resolvers, &at.field("resolvers"), d), dns_resolver_options)
}

fn resolver(servers: Vec<SocketAddr>, options: Option<core_proto::DnsResolverOptions>) -> DnsResolver {
    let core_proto::DnsResolverOptions { use_tcp_for_dns_lookups, no_default_search_domain } =
        options.unwrap_or_default();
    DnsResolver { servers, use_tcp: use_tcp_for_dns_lookups, no_search_domains: no_default_search_domain }
}

fn servers(list: Vec<core_proto::Address>, at: &Path<'_>, d: &mut Diagnostics) -> Vec<SocketAddr> {
    field::each(list, at, d, |proto, at, d| {
        let address = address::socket(proto, at, d)?;
        // Port 0 means the well-known one.
        Ok(if address.port() == 0 { SocketAddr::new(address.ip(), 53) } else { address })
    })
}
