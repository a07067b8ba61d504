//! The bootstrap that points a proxy, Envoy or ours, at this control plane.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

/// How the proxy asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Api {
    /// Incremental.
    #[default]
    Delta,
    /// State of the world.
    Sotw,
}

/// What a bootstrap says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// `node.id`: unique in the fleet.
    pub node_id: String,
    /// Node group (`node.cluster`).
    pub group: String,
    /// Zone of the proxy; empty: none.
    pub zone: String,
    /// Host or IP address of the control plane's xDS port.
    pub host: String,
    /// The port.
    pub port: u16,
    /// How it asks.
    pub api: Api,
    /// Where its admin interface listens; `None`: it has none.
    pub admin: Option<SocketAddr>,
    /// How often it reports its stats, by which `status` shows how it sees services, in seconds; 0: it does not.
    /// Default 5.
    pub report_s: u32,
    /// TLS to the control plane; `None`: plaintext.
    pub tls: Option<Tls>,
}

/// TLS to the control plane, by files on the proxy's machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Authorities of the control plane's certificate.
    pub ca: String,
    /// The proxy's certificate and key.
    pub identity: Option<(String, String)>,
    /// Name that the control plane's certificate must hold: a host name or an IP address.
    pub sni: String,
}

impl Bootstrap {
    /// A bootstrap with admin on the loopback, port 9901.
    pub fn new(node_id: &str, group: &str, host: &str, port: u16) -> Self {
        Self {
            node_id: node_id.to_owned(),
            group: group.to_owned(),
            zone: String::new(),
            host: host.to_owned(),
            port,
            api: Api::Delta,
            admin: Some(SocketAddr::from(([127, 0, 0, 1], 9901))),
            report_s: 5,
            tls: None,
        }
    }

    /// The YAML text. The proxy asks for listeners and clusters over one stream, keeps trying while the control
    /// plane is away, and notices a dead connection by HTTP/2 keepalive.
    pub fn to_yaml(&self) -> String {
        let Self { node_id, group, zone, host, port, api, admin, report_s, tls } = self;
        let kind = match api {
            Api::Delta => "DELTA_GRPC",
            Api::Sotw => "GRPC",
        };
        let discovery = if host.parse::<IpAddr>().is_ok() { "STATIC" } else { "STRICT_DNS" };
        let (node_id, group, host) = (quoted(node_id), quoted(group), quoted(host));
        let mut out = format!("node:\n  id: {node_id}\n  cluster: {group}\n");
        if !zone.is_empty() {
            let _ = writeln!(out, "  locality:\n    zone: {}", quoted(zone));
        }
        if let Some(admin) = admin {
            let (ip, port) = (quoted(&admin.ip().to_string()), admin.port());
            let _ = write!(
                out,
                "\nadmin:\n  address:\n    socket_address: {{ address: {ip}, port_value: {port} }}\n"
            );
        }
        if *report_s > 0 {
            let _ = write!(
                out,
                "
# How this proxy sees the health of services is shown by `portolan status`. All stats are sent; `--report 0` sends none.
stats_flush_interval: {report_s}s
stats_sinks:
  - name: envoy.stat_sinks.metrics_service
    typed_config:
      \"@type\": type.googleapis.com/envoy.config.metrics.v3.MetricsServiceConfig
      transport_api_version: V3
      grpc_service:
        envoy_grpc: {{ cluster_name: portolan_control }}
      histogram_emit_mode: SUMMARY
      batch_size: 1000
"
            );
        }
        let _ = write!(
            out,
            "
dynamic_resources:
  ads_config:
    api_type: {kind}
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services:
      - envoy_grpc: {{ cluster_name: portolan_control }}
  lds_config: {{ ads: {{}}, resource_api_version: V3 }}
  cds_config: {{ ads: {{}}, resource_api_version: V3 }}

static_resources:
  clusters:
    - name: portolan_control
      type: {discovery}
      connect_timeout: 5s
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config:
            http2_protocol_options:
              connection_keepalive: {{ interval: 30s, timeout: 5s }}
      load_assignment:
        cluster_name: portolan_control
        endpoints:
          - lb_endpoints:
              - endpoint:
                  address:
                    socket_address: {{ address: {host}, port_value: {port} }}
"
        );
        if let Some(tls) = tls {
            tls.write(&mut out);
        }
        out
    }
}

impl Tls {
    fn write(&self, out: &mut String) {
        let Self { ca, identity, sni } = self;
        let kind = if sni.parse::<IpAddr>().is_ok() { "IP_ADDRESS" } else { "DNS" };
        let _ = write!(
            out,
            "      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
"
        );
        if kind == "DNS" {
            let _ = writeln!(out, "          sni: {}", quoted(sni));
        }
        let _ = write!(
            out,
            "          common_tls_context:
            alpn_protocols: [h2]
            tls_params: {{ tls_maximum_protocol_version: TLSv1_3 }}
            validation_context:
              trusted_ca: {{ filename: {} }}
              match_typed_subject_alt_names:
                - {{ san_type: {kind}, matcher: {{ exact: {} }} }}
",
            quoted(ca),
            quoted(sni)
        );
        if let Some((certificate, key)) = identity {
            let _ = write!(
                out,
                "            tls_certificates:
              - certificate_chain: {{ filename: {} }}
                private_key: {{ filename: {} }}
",
                quoted(certificate),
                quoted(key)
            );
        }
    }
}

/// A YAML string: JSON's form is one.
fn quoted(text: &str) -> String {
    serde_json::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use xds_types::envoy::config::bootstrap::v3::Bootstrap as Proto;
    use xds_types::text::{self, Source};

    fn parsed(b: &Bootstrap) -> Proto {
        let text = b.to_yaml();
        let proto = text::parse::<Proto>(Source { name: "bootstrap.yaml", text: &text })
            .unwrap_or_else(|e| panic!("{e}\n{text}"))
            .message;
        assert_eq!(xds_types::rules::check(&proto), []);
        proto
    }

    #[test]
    fn it_is_a_valid_bootstrap_for_addresses_and_for_names() {
        for (host, kind) in [("10.0.0.1", 0), ("::1", 0), ("control.example.com", 1)] {
            let proto = parsed(&Bootstrap::new("proxy-1", "edge", host, 18000));
            let cluster = &proto.static_resources.as_ref().unwrap().clusters[0];
            use xds_types::envoy::config::cluster::v3::cluster::ClusterDiscoveryType;
            assert_eq!(cluster.cluster_discovery_type, Some(ClusterDiscoveryType::Type(kind)), "{host}");
            assert_eq!(proto.node.as_ref().unwrap().cluster, "edge");
        }
    }

    #[test]
    fn it_says_how_to_speak_tls() {
        for sni in ["control.example.com", "10.0.0.1"] {
            for identity in [None, Some(("/c.pem".to_owned(), "/k.pem".to_owned()))] {
                let tls = Some(Tls { ca: "/ca.pem".into(), identity, sni: sni.into() });
                let proto = parsed(&Bootstrap { tls, ..Bootstrap::new("a", "b", sni, 1) });
                let socket = proto.static_resources.unwrap().clusters[0].transport_socket.clone().unwrap();
                assert_eq!(socket.name, "envoy.transport_sockets.tls");
            }
        }
    }

    #[test]
    fn it_says_how_to_ask() {
        use xds_types::envoy::config::core::v3::api_config_source::ApiType;
        for (api, kind) in [(Api::Delta, ApiType::DeltaGrpc), (Api::Sotw, ApiType::Grpc)] {
            let proto = parsed(&Bootstrap { api, ..Bootstrap::new("a", "b", "127.0.0.1", 1) });
            let ads = proto.dynamic_resources.unwrap().ads_config.unwrap();
            assert_eq!(ads.api_type, i32::from(kind));
        }
    }

    #[test]
    fn it_says_how_often_to_report_and_where() {
        let on = parsed(&Bootstrap::new("a", "b", "127.0.0.1", 1));
        assert_eq!((on.stats_sinks.len(), on.stats_flush_interval.unwrap().seconds), (1, 5));
        let off = parsed(&Bootstrap { report_s: 0, ..Bootstrap::new("a", "b", "127.0.0.1", 1) });
        assert_eq!((off.stats_sinks.len(), off.stats_flush_interval), (0, None));
    }

    #[test]
    fn names_cannot_break_out_of_their_field() {
        let proto = parsed(&Bootstrap::new("a\"\n: {", "b # c", "127.0.0.1", 1));
        let node = proto.node.unwrap();
        assert_eq!((node.id.as_str(), node.cluster.as_str()), ("a\"\n: {", "b # c"));
    }
}
