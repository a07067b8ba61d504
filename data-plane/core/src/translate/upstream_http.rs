//! HTTP options of clusters: `HttpProtocolOptions` and the deprecated fields it replaced.

use super::extension;
use super::field::{self, ignored, unsupported};
use super::protocol::{self, Common, Side};
use crate::config::{AutoSni, Http1Options, Http2Options, UpstreamProtocol};
use crate::path::{Diagnostics, Path};
use std::collections::HashMap;
use xds_types::envoy::config::cluster::v3::cluster::ClusterProtocolSelection;
use xds_types::envoy::config::core::v3 as core_proto;
use xds_types::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use xds_types::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use xds_types::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    AutoHttpConfig, ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
};
use xds_types::google::protobuf::{Any, UInt32Value};

/// The key of `typed_extension_protocol_options` that is known here.
const KEY: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// How to speak HTTP with a cluster.
#[derive(Default)]
pub(super) struct Http {
    pub(super) protocol: UpstreamProtocol,
    pub(super) common: Common,
    pub(super) http1: Http1Options,
    pub(super) http2: Http2Options,
    pub(super) auto_sni: AutoSni,
}

/// The cluster's own fields, deprecated in favour of `HttpProtocolOptions`.
pub(super) struct Legacy {
    pub(super) upstream_http_protocol_options: Option<core_proto::UpstreamHttpProtocolOptions>,
    pub(super) common_http_protocol_options: Option<core_proto::HttpProtocolOptions>,
    pub(super) http_protocol_options: Option<core_proto::Http1ProtocolOptions>,
    pub(super) http2_protocol_options: Option<core_proto::Http2ProtocolOptions>,
    pub(super) protocol_selection: i32,
    pub(super) max_requests_per_connection: Option<UInt32Value>,
}

impl Legacy {
    /// What the extension says, else what the deprecated fields say.
    pub(super) fn options(
        self,
        extensions: HashMap<String, Any>,
        at: &Path<'_>,
        d: &mut Diagnostics,
    ) -> Http {
        let extensions_at = at.field("typed_extension_protocol_options");
        let mut found = None;
        let mut extensions: Vec<_> = extensions.into_iter().collect();
        extensions.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (key, packed) in extensions {
            let at = extensions_at.key(&key);
            if key == KEY {
                found = extension::open(&packed, &at, d).map(|proto| options(proto, &at, d)).ok().or(found);
            } else {
                extension::unknown("protocol options", &key, &packed, &at, d);
            }
        }
        match found {
            Some(http) => {
                self.replaced(at, d);
                http
            }
            None => self.own(at, d),
        }
    }

    /// Envoy ignores the deprecated fields beside the extension.
    fn replaced(self, at: &Path<'_>, d: &mut Diagnostics) {
        let Self {
            upstream_http_protocol_options,
            common_http_protocol_options,
            http_protocol_options,
            http2_protocol_options,
            protocol_selection,
            max_requests_per_connection,
        } = self;
        ignored!(d, at, "typed_extension_protocol_options takes its place";
            upstream_http_protocol_options,
            common_http_protocol_options,
            http_protocol_options,
            http2_protocol_options,
            protocol_selection,
            max_requests_per_connection,
        );
    }

    fn own(self, at: &Path<'_>, d: &mut Diagnostics) -> Http {
        let Self {
            upstream_http_protocol_options,
            common_http_protocol_options,
            http_protocol_options,
            http2_protocol_options,
            protocol_selection,
            max_requests_per_connection,
        } = self;
        let sni_at = at.field("upstream_http_protocol_options");
        let auto_sni = auto_sni(upstream_http_protocol_options, &sni_at, d);
        let selection_at = at.field("protocol_selection");
        let downstream = matches!(
            field::variant(protocol_selection, &selection_at, d),
            Ok(ClusterProtocolSelection::UseDownstreamProtocol)
        );
        let protocol = match (downstream, http_protocol_options.is_some(), http2_protocol_options.is_some()) {
            (true, _, _) => UpstreamProtocol::Downstream,
            (false, true, true) => {
                let message =
                    "excludes http_protocol_options unless protocol_selection is USE_DOWNSTREAM_PROTOCOL";
                d.reject(&at.field("http2_protocol_options"), message);
                UpstreamProtocol::Http2
            }
            (false, _, true) => UpstreamProtocol::Http2,
            (false, _, false) => UpstreamProtocol::Http1,
        };
        let common_at = at.field("common_http_protocol_options");
        let mut common = protocol::common(common_http_protocol_options, Side::Upstream, &common_at, d);
        match (common.max_requests_per_connection, max_requests_per_connection) {
            (None, Some(most)) => {
                common.max_requests_per_connection = Some(most.value).filter(|&most| most > 0)
            }
            (Some(_), Some(_)) => d.ignored(
                &at.field("max_requests_per_connection"),
                "common_http_protocol_options.max_requests_per_connection takes its place",
            ),
            (_, None) => {}
        }
        Http {
            protocol,
            common,
            http1: protocol::http1(http_protocol_options, false, &at.field("http_protocol_options"), d),
            http2: protocol::http2(http2_protocol_options, &at.field("http2_protocol_options"), d),
            auto_sni,
        }
    }
}

fn auto_sni(
    proto: Option<core_proto::UpstreamHttpProtocolOptions>,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> AutoSni {
    let core_proto::UpstreamHttpProtocolOptions { auto_sni, auto_san_validation, override_auto_sni_header } =
        proto.unwrap_or_default();
    if !override_auto_sni_header.is_empty() && !auto_sni && !auto_san_validation {
        d.ignored(&at.field("override_auto_sni_header"), "neither auto_sni nor auto_san_validation is set");
    }
    AutoSni {
        sni: auto_sni,
        san_validation: auto_san_validation,
        header: (!override_auto_sni_header.is_empty() && (auto_sni || auto_san_validation))
            .then(|| override_auto_sni_header.to_ascii_lowercase().into()),
    }
}

fn options(proto: HttpProtocolOptions, at: &Path<'_>, d: &mut Diagnostics) -> Http {
    let HttpProtocolOptions {
        common_http_protocol_options,
        upstream_http_protocol_options,
        http_filters,
        header_validation_config,
        outlier_detection,
        request_mirror_policies,
        hash_policy,
        retry_policy,
        upstream_protocol_options,
    } = proto;
    unsupported!(d, at; http_filters, header_validation_config);
    unsupported!(d, at, "not supported here: use outlier_detection of the cluster"; outlier_detection);
    unsupported!(d, at, "not supported here: use that of routes"; request_mirror_policies, hash_policy, retry_policy);
    let sni_at = at.field("upstream_http_protocol_options");
    let auto_sni = auto_sni(upstream_http_protocol_options, &sni_at, d);
    let common_at = at.field("common_http_protocol_options");
    let common = protocol::common(common_http_protocol_options, Side::Upstream, &common_at, d);
    match upstream_protocol_options {
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(proto)) => {
            Http { common, auto_sni, ..explicit(proto, &at.field("explicit_http_config"), d) }
        }
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(proto)) => {
            Http { common, auto_sni, ..downstream(proto, &at.field("use_downstream_protocol_config"), d) }
        }
        Some(UpstreamProtocolOptions::AutoConfig(proto)) => {
            Http { common, auto_sni, ..auto(proto, &at.field("auto_config"), d) }
        }
        None => {
            d.reject(
                at,
                "one of explicit_http_config, use_downstream_protocol_config, auto_config is required",
            );
            Http { common, ..Default::default() }
        }
    }
}

fn explicit(proto: ExplicitHttpConfig, at: &Path<'_>, d: &mut Diagnostics) -> Http {
    let ExplicitHttpConfig { protocol_config } = proto;
    match protocol_config {
        Some(ProtocolConfig::HttpProtocolOptions(proto)) => Http {
            protocol: UpstreamProtocol::Http1,
            http1: protocol::http1(Some(proto), false, &at.field("http_protocol_options"), d),
            ..Default::default()
        },
        Some(ProtocolConfig::Http2ProtocolOptions(proto)) => Http {
            protocol: UpstreamProtocol::Http2,
            http2: protocol::http2(Some(proto), &at.field("http2_protocol_options"), d),
            ..Default::default()
        },
        Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
            d.reject(&at.field("http3_protocol_options"), "HTTP/3 is not built yet");
            Http::default()
        }
        None => {
            d.reject(at, "one of http_protocol_options, http2_protocol_options is required");
            Http::default()
        }
    }
}

fn auto(proto: AutoHttpConfig, at: &Path<'_>, d: &mut Diagnostics) -> Http {
    let AutoHttpConfig {
        http_protocol_options,
        http2_protocol_options,
        http3_protocol_options,
        alternate_protocols_cache_options,
    } = proto;
    unsupported!(d, at, "HTTP/3 is not built yet"; http3_protocol_options, alternate_protocols_cache_options);
    Http {
        protocol: UpstreamProtocol::Auto,
        http1: protocol::http1(http_protocol_options, false, &at.field("http_protocol_options"), d),
        http2: protocol::http2(http2_protocol_options, &at.field("http2_protocol_options"), d),
        ..Default::default()
    }
}

fn downstream(proto: UseDownstreamHttpConfig, at: &Path<'_>, d: &mut Diagnostics) -> Http {
    let UseDownstreamHttpConfig { http_protocol_options, http2_protocol_options, http3_protocol_options } =
        proto;
    unsupported!(d, at, "HTTP/3 is not built yet"; http3_protocol_options);
    Http {
        protocol: UpstreamProtocol::Downstream,
        http1: protocol::http1(http_protocol_options, false, &at.field("http_protocol_options"), d),
        http2: protocol::http2(http2_protocol_options, &at.field("http2_protocol_options"), d),
        ..Default::default()
    }
}
