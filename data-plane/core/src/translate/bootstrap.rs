//! The bootstrap: static resources, dynamic sources, node, admin, stats, runtime.

use super::field::{self, ignored, unsupported};
use super::{
    DataLoader, Options, Sources, accesslog, address, cluster, discovery, dns, duration, extension, listener,
    runtime, secret, sinks, source,
};
use crate::config::{self, Admin, Cluster, Dynamic, Listener, Locality, LogFormat, Node, StatsOptions};
use crate::path::{Diagnostics, Path, Rejected};
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use xds_types::envoy::config::bootstrap::v3 as proto;
use xds_types::envoy::config::bootstrap::v3::bootstrap::application_log_config::{
    LogFormat as ApplicationLogFormat, log_format::LogFormat as LogFormatKind,
};
use xds_types::envoy::config::bootstrap::v3::bootstrap::{
    DeferredStatOptions, DynamicResources, StaticResources, StatsEviction, StatsFlush,
};
use xds_types::envoy::config::bootstrap::v3::cluster_manager::OutlierDetection;
use xds_types::envoy::config::cluster::v3::Cluster as ClusterProto;
use xds_types::envoy::config::core::v3 as core_proto;
use xds_types::envoy::config::core::v3::node::UserAgentVersionType;
use xds_types::envoy::config::listener::v3::Listener as ListenerProto;
use xds_types::envoy::config::metrics::v3::{StatsConfig, TagSpecifier, tag_specifier::TagValue};
use xds_types::envoy::extensions::regex_engines::v3::GoogleRe2;

/// A bootstrap. Its resources are checked against what it offers itself.
pub(super) fn bootstrap(
    proto: proto::Bootstrap,
    at: &Path<'_>,
    d: &mut Diagnostics,
    data: &dyn DataLoader,
) -> Result<config::Bootstrap, Rejected> {
    let proto::Bootstrap {
        node,
        node_context_params,
        static_resources,
        dynamic_resources,
        cluster_manager,
        hds_config,
        flags_path,
        stats_sinks,
        deferred_stat_options,
        stats_config,
        stats_flush_interval,
        watchdog,
        watchdogs,
        tracing,
        layered_runtime,
        admin,
        overload_manager,
        enable_dispatcher_stats,
        header_prefix,
        stats_server_version_override,
        use_tcp_for_dns_lookups,
        dns_resolution_config,
        typed_dns_resolver_config,
        bootstrap_extensions,
        fatal_actions,
        config_sources,
        default_config_source,
        default_socket_interface,
        certificate_provider_instances,
        inline_headers,
        perf_tracing_file_path,
        default_regex_engine,
        xds_delegate_extension,
        xds_config_tracker_extension,
        listener_manager,
        application_log_config,
        grpc_async_client_manager_config,
        memory_allocator_manager,
        enable_worker_cpu_affinity,
        stats_flush,
        stats_eviction,
    } = proto;
    unsupported!(d, at, "not supported here: use tracing.provider of HTTP connection managers"; tracing);
    unsupported!(d, at, "overload management is not built yet"; overload_manager);
    unsupported!(d, at, "xdstp names are not supported"; node_context_params, config_sources, default_config_source);
    unsupported!(d, at;
        hds_config,
        flags_path,
        header_prefix,
        bootstrap_extensions,
        default_socket_interface,
        certificate_provider_instances,
        xds_delegate_extension,
    );
    ignored!(d, at, "there is no watchdog"; watchdog, watchdogs, fatal_actions);
    ignored!(d, at, "there are no such stats"; enable_dispatcher_stats, stats_server_version_override);
    ignored!(d, at, "well-known headers need no registration"; inline_headers);
    ignored!(d, at, "only observes"; perf_tracing_file_path, xds_config_tracker_extension);
    ignored!(d, at, "channels live as long as their source"; grpc_async_client_manager_config);
    ignored!(d, at, "the allocator and the scheduler decide"; memory_allocator_manager, enable_worker_cpu_affinity);
    stats_extras(deferred_stat_options, stats_flush, stats_eviction, at, d);
    let log_format = match application_log_config {
        Some(proto) => application_log(proto, &at.field("application_log_config"), d),
        None => Ok(None),
    };
    let outlier_log = cluster_manager_options(cluster_manager, &at.field("cluster_manager"), d);
    regex_engine(default_regex_engine, &at.field("default_regex_engine"), d);
    manager_extension(listener_manager, &at.field("listener_manager"), d);
    let resolver =
        dns::OldResolver { dns_resolvers: Vec::new(), use_tcp_for_dns_lookups, dns_resolution_config };
    let dns = resolver.or_typed(typed_dns_resolver_config, at, d).unwrap_or_default();

    let StaticResources { listeners, clusters, secrets } = static_resources.unwrap_or_default();
    let static_at = at.field("static_resources");
    let DynamicResources { lds_config, lds_resources_locator, cds_config, cds_resources_locator, ads_config } =
        dynamic_resources.unwrap_or_default();
    let dynamic_at = at.field("dynamic_resources");
    unsupported!(d, dynamic_at, "xdstp names are not supported"; lds_resources_locator, cds_resources_locator);

    // References are checked against the names as written: a cluster that is refused below is not unknown as well.
    let names: BTreeSet<String> = clusters.iter().map(|c| c.name.clone()).collect();
    let exists = |name: &str| names.contains(name);
    let secret_types = secret::types(&secrets);
    let sources = Sources {
        ads: ads_config.is_some(),
        secrets: secret_types,
        clusters: clusters
            .iter()
            .filter(|c| discovery::reaches_servers(c))
            .map(|c| c.name.as_str().into())
            .collect(),
        dns,
    };
    let options = Options { data, sources: Some(&sources), clusters: Some(&exists), outbound: false };
    let secrets = secret::statics(secrets, &static_at.field("secrets"), d, &options);
    let clusters = static_clusters(clusters, &static_at.field("clusters"), d, &options);
    let mut of = |proto: Option<core_proto::ConfigSource>, name: &'static str| -> Result<_, Rejected> {
        proto.map(|proto| source::config_source(proto, &dynamic_at.field(name), d, &options)).transpose()
    };
    let (lds, cds) = (of(lds_config, "lds_config"), of(cds_config, "cds_config"));
    let ads = ads_config.map(|proto| {
        source::api_source(proto, source::Use::Aggregated, &dynamic_at.field("ads_config"), d, &options)
    });
    let listeners = static_listeners(listeners, &static_at.field("listeners"), d, &options);
    let admin = match admin {
        Some(proto) => self::admin(proto, &at.field("admin"), d, &options),
        None => Ok(None),
    };
    let mut stats = self::stats(stats_config, &at.field("stats_config"), d);
    let interval_at = at.field("stats_flush_interval");
    stats.flush_interval = duration::positive_or(stats_flush_interval, stats.flush_interval, &interval_at, d);
    stats.sinks = sinks::sinks(stats_sinks, &at.field("stats_sinks"), d, &sources);
    let runtime = runtime::layers(layered_runtime, &at.field("layered_runtime"), d);
    Ok(config::Bootstrap {
        node: self::node(node.unwrap_or_default(), &at.field("node"), d),
        listeners,
        secrets,
        dynamic: Dynamic { lds: lds?, cds: cds?, ads: ads.transpose()? },
        admin: admin?,
        stats,
        runtime: runtime.values,
        runtime_admin_layer: runtime.admin_layer,
        dns: sources.dns,
        outlier_log,
        log_format: log_format?,
        clusters,
    })
}

/// The lines of the proxy's own log. Whether the pattern is one is for the log to say.
fn application_log(
    proto: proto::bootstrap::ApplicationLogConfig,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<Option<LogFormat>, Rejected> {
    let proto::bootstrap::ApplicationLogConfig { log_format } = proto;
    let Some(ApplicationLogFormat { log_format }) = log_format else { return Ok(None) };
    let at = at.field("log_format");
    match log_format {
        Some(LogFormatKind::TextFormat(pattern)) => {
            Ok(Some(LogFormat { pattern: pattern.into(), json: false }))
        }
        Some(LogFormatKind::JsonFormat(object)) => {
            let pattern = serde_json::Value::Object(runtime::json_object(object)).to_string();
            if let Some(flag) = ["%v", "%_"].into_iter().find(|flag| pattern.contains(flag)) {
                let why = format_args!("{flag} would break the JSON: use %j");
                return Err(d.reject(&at.field("json_format"), why));
            }
            Ok(Some(LogFormat { pattern: pattern.into(), json: true }))
        }
        None => Err(d.reject(&at, "one of json_format, text_format is required")),
    }
}

fn static_clusters(
    list: Vec<ClusterProto>,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Vec<Arc<Cluster>> {
    let mut names: HashMap<String, usize> = HashMap::new();
    field::each(list.into_iter().enumerate(), at, d, |(index, proto), at, d| {
        if let Some(first) = names.insert(proto.name.clone(), index) {
            d.reject(
                &at.field("name"),
                format_args!("{:?} is already the name of clusters[{first}]", proto.name),
            );
        }
        cluster::cluster(proto, at, d, o).map(Arc::new)
    })
}

fn static_listeners(
    list: Vec<ListenerProto>,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Vec<Arc<Listener>> {
    let mut names: HashMap<Box<str>, usize> = HashMap::new();
    let mut addresses: HashMap<SocketAddr, usize> = HashMap::new();
    field::each(list.into_iter().enumerate(), at, d, |(index, proto), at, d| {
        let listener = listener::listener(proto, at, d, o)?;
        if let Some(first) = names.insert(listener.name.clone(), index) {
            d.reject(
                &at.field("name"),
                format_args!("{:?} is already the name of listeners[{first}]", listener.name),
            );
        }
        // Port 0 asks the system for a free one, as often as it is written.
        for &address in listener.addresses.iter().filter(|a| a.port() != 0) {
            if let Some(first) = addresses.insert(address, index).filter(|&first| first != index) {
                d.reject(
                    &at.field("address"),
                    format_args!("{address} is already the address of listeners[{first}]"),
                );
            }
        }
        Ok(Arc::new(listener))
    })
}

fn node(proto: core_proto::Node, at: &Path<'_>, d: &mut Diagnostics) -> Node {
    let core_proto::Node {
        id,
        cluster,
        metadata,
        dynamic_parameters,
        locality,
        user_agent_name,
        extensions,
        client_features,
        listening_addresses,
        user_agent_version_type,
    } = proto;
    unsupported!(d, at, "xdstp names are not supported"; dynamic_parameters);
    ignored!(d, at, "the proxy says itself what it is"; user_agent_name, extensions, client_features);
    ignored!(d, at, "deprecated, and not sent"; listening_addresses);
    match user_agent_version_type {
        Some(UserAgentVersionType::UserAgentVersion(_)) => {
            d.ignored(&at.field("user_agent_version"), "the proxy says itself what it is");
        }
        Some(UserAgentVersionType::UserAgentBuildVersion(_)) => {
            d.ignored(&at.field("user_agent_build_version"), "the proxy says itself what it is");
        }
        None => {}
    }
    Node {
        id,
        cluster,
        locality: locality.map(self::locality).unwrap_or_default(),
        metadata: metadata.map(runtime::json_object).unwrap_or_default(),
    }
}

/// Where something runs.
pub(super) fn locality(proto: core_proto::Locality) -> Locality {
    let core_proto::Locality { region, zone, sub_zone } = proto;
    Locality { region, zone, sub_zone }
}

fn admin(
    proto: proto::Admin,
    at: &Path<'_>,
    d: &mut Diagnostics,
    o: &Options<'_>,
) -> Result<Option<Admin>, Rejected> {
    let proto::Admin {
        access_log,
        access_log_path,
        profile_path,
        address: address_proto,
        socket_options,
        ignore_global_conn_limit,
        allow_paths,
    } = proto;
    unsupported!(d, at; socket_options, allow_paths);
    ignored!(d, at, "there is no profiler"; profile_path);
    ignored!(d, at, "there is no such limit here"; ignore_global_conn_limit);
    let mut access_log = accesslog::logs(access_log, &at.field("access_log"), d, o);
    if !access_log_path.is_empty() {
        access_log.push(accesslog::plain_file(access_log_path));
    }
    let Some(address) = address_proto else {
        if !access_log.is_empty() {
            d.ignored(at, "has no address: no admin server is started");
        }
        return Ok(None);
    };
    let address = address::socket(address, &at.field("address"), d)?;
    Ok(Some(Admin { address, access_log, address_path: None }))
}

fn stats(proto: Option<StatsConfig>, at: &Path<'_>, d: &mut Diagnostics) -> StatsOptions {
    let StatsConfig {
        stats_tags,
        use_all_default_tags,
        stats_matcher,
        histogram_bucket_settings,
        allow_default_tag_overrides,
    } = proto.unwrap_or_default();
    ignored!(d, at, "the default tags are always extracted"; use_all_default_tags = true,
        allow_default_tag_overrides = false);
    ignored!(d, at, "no stats are filtered"; stats_matcher);
    ignored!(d, at, "histograms have one set of buckets"; histogram_bucket_settings);
    let mut fixed_tags = Vec::new();
    let tags_at = at.field("stats_tags");
    for (index, TagSpecifier { tag_name, tag_value }) in stats_tags.into_iter().enumerate() {
        let at = tags_at.index(index);
        match tag_value {
            Some(TagValue::FixedValue(value)) => fixed_tags.push((tag_name, value)),
            Some(TagValue::Regex(_)) => d.ignored(&at.field("regex"), "no tags are extracted by expression"),
            None => d.ignored(&at, "the default tags are always extracted"),
        }
    }
    StatsOptions { fixed_tags, ..StatsOptions::default() }
}

fn stats_extras(
    deferred: Option<DeferredStatOptions>,
    flush: Option<StatsFlush>,
    eviction: Option<StatsEviction>,
    at: &Path<'_>,
    d: &mut Diagnostics,
) {
    if let Some(DeferredStatOptions { enable_deferred_creation_stats }) = deferred {
        let at = at.field("deferred_stat_options");
        ignored!(d, at, "stats are always created on first use"; enable_deferred_creation_stats);
    }
    if let Some(StatsFlush::StatsFlushOnAdmin(true)) = flush {
        d.ignored(&at.field("stats_flush_on_admin"), "the admin server always shows the latest");
    }
    if let Some(StatsEviction::StatsEvictionInterval(_)) = eviction {
        d.ignored(&at.field("stats_eviction_interval"), "stats are removed with what they count");
    }
}

/// Options of all clusters: where ejections are logged.
fn cluster_manager_options(
    proto: Option<proto::ClusterManager>,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Option<PathBuf> {
    let proto = proto?;
    let proto::ClusterManager {
        local_cluster_name,
        outlier_detection,
        upstream_bind_config,
        load_stats_config,
        enable_deferred_cluster_creation,
    } = proto;
    unsupported!(d, at; upstream_bind_config);
    ignored!(d, at, "hosts of all zones are used alike"; local_cluster_name);
    ignored!(d, at, "load is not reported"; load_stats_config);
    ignored!(d, at, "clusters cost nothing before their first request"; enable_deferred_cluster_creation);
    let OutlierDetection { event_log_path, event_service } = outlier_detection?;
    ignored!(d, at.field("outlier_detection"), "events are written to files only"; event_service);
    Some(event_log_path).filter(|path| !path.is_empty()).map(Into::into)
}

/// RE2 is the only engine; the one here takes its syntax.
fn regex_engine(proto: Option<core_proto::TypedExtensionConfig>, at: &Path<'_>, d: &mut Diagnostics) {
    let Some(core_proto::TypedExtensionConfig { name, typed_config }) = proto else { return };
    let Ok(packed) = extension::packed(typed_config.as_ref(), at, d) else { return };
    let at = at.field("typed_config");
    if !extension::is::<GoogleRe2>(packed) {
        extension::unknown("regex engine", &name, packed, &at, d);
    } else if let Ok(GoogleRe2 {}) = extension::open(packed, &at, d) {
        d.ignored(&at, "RE2's syntax is the default");
    }
}

/// Only Envoy's default listener manager, which has no settings.
fn manager_extension(proto: Option<core_proto::TypedExtensionConfig>, at: &Path<'_>, d: &mut Diagnostics) {
    let Some(core_proto::TypedExtensionConfig { name, typed_config }) = proto else { return };
    let Ok(packed) = extension::packed(typed_config.as_ref(), at, d) else { return };
    let at = at.field("typed_config");
    if !extension::is::<proto::ListenerManager>(packed) {
        extension::unknown("listener manager", &name, packed, &at, d);
    } else if let Ok(proto::ListenerManager {}) = extension::open(packed, &at, d) {
        d.ignored(&at, "there is one listener manager");
    }
}
