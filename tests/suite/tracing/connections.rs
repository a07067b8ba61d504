//! Log entries about connections over gRPC: those of the real Envoy, and by our own objects.

use anyhow::{Result, ensure};
use e2e::certs;
use e2e::collector::Collector;
use e2e::control::Control;
use e2e::envoy::Envoy;
use e2e::https::Tls;
use e2e::pki::{Life, Pki};
use e2e::process::{built, free_port, installed};
use e2e::tcp::{Client, Origin};
use e2e::{eventually, pair};
use prost::Message;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use xds_types::envoy::data::accesslog::v3::TcpAccessLogEntry;
use xds_types::envoy::service::accesslog::v3::StreamAccessLogsMessage;
use xds_types::envoy::service::accesslog::v3::stream_access_logs_message::LogEntries;

const LOG: &str = "access_log: [{name: collector, typed_config: {\"@type\": \
    type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig, \
    common_config: {log_name: bytes, grpc_service: {envoy_grpc: {cluster_name: collector}}, \
    transport_api_version: V3, buffer_flush_interval: 0.1s, custom_tags: [{tag: lit, literal: {value: v}}]}}}]";

/// A listener that carries bytes to a cluster; `logs` are the filter's, `more` fields of the listener and of its chain.
fn listener(name: &str, cluster: &str, logs: &str, more: &str, chain: &str) -> String {
    format!(
        "{{name: {name}, address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}, {more} filter_chains: [{{{chain} filters: \
         [{{name: tcp, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, \
         stat_prefix: {name}, cluster: {cluster}, {logs}}}}}]}}]}}"
    )
}

/// Entries that came, in order.
fn entries(collector: &Collector) -> Result<Vec<TcpAccessLogEntry>> {
    let mut all = Vec::new();
    for (_, message) in collector.messages() {
        let message = StreamAccessLogsMessage::decode(message)?;
        if let Some(LogEntries::TcpLogs(entries)) = message.log_entries {
            all.extend(entries.log_entry);
        }
    }
    Ok(all)
}

struct Side {
    proxy: Envoy,
    origin: Origin,
    collector: Collector,
    /// A port at which nobody listens.
    refused: u16,
}

impl Side {
    async fn start(name: &str, program: PathBuf, args: &[&str], pki: &Pki) -> Result<Self> {
        let (origin, collector) = (Origin::start().await?, Collector::start().await?);
        let refused = free_port()?;
        let tls = format!(
            "transport_socket: {{name: tls, typed_config: {{\"@type\": \
             type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, require_client_certificate: true, \
             common_tls_context: {{tls_certificates: [{{certificate_chain: {{filename: {0}/server.pem}}, private_key: {{filename: \
             {0}/server.key}}}}], validation_context: {{trusted_ca: {{filename: {0}/ca.pem}}}}}}}}}}, ",
            pki.dir().display()
        );
        let listeners = [
            listener("bytes", "up", LOG, "", ""),
            listener("refused", "refused", LOG, "", ""),
            listener("nowhere", "none", LOG, "", ""),
            listener("tls", "up", LOG, "", &tls),
            listener("listened", "up", "", &format!("{LOG}, "), ""),
        ];
        let config = format!(
            "{{admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}, \
             node: {{id: node-1, cluster: fleet}}, \
             static_resources: {{listeners: [{}], clusters: [{}, {}, {}]}}}}",
            listeners.join(", "),
            pair::cluster("up", &origin.addr.port().to_string(), ""),
            pair::cluster("refused", &refused.to_string(), ""),
            pair::cluster("collector", &collector.addr.port().to_string(), pair::SPEAKS_H2),
        );
        let proxy = Envoy::launch(name, &program, &config, args).await?;
        Ok(Self { proxy, origin, collector, refused })
    }

    /// What a connection to a listener is told as.
    async fn entry(&self, listener: &str, identity: &Tls) -> String {
        self.collector.clear();
        let addr = self.proxy.listener(listener).await.unwrap();
        if listener == "tls" {
            let mut stream = identity.connect(addr).await.unwrap();
            stream.write_all(b"DO echo\nhello").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
        } else {
            let mut client = Client::send(addr, b"DO echo\nhello").await.unwrap();
            let _ = client.finish().await;
            client.rest().await.unwrap();
        }
        let entry = eventually("an entry comes", async || -> Result<_> {
            let mut all = entries(&self.collector)?;
            ensure!(all.len() == 1, "{all:#?}");
            Ok(all.remove(0))
        })
        .await;
        self.normal(entry, addr, listener == "listened")
    }

    /// Without what differs from run to run; what was measured is told as there or not. `bare`: without what is said of the
    /// proxying, which ours, where it logs for a listener, does not know of.
    fn normal(&self, mut entry: TcpAccessLogEntry, addr: SocketAddr, bare: bool) -> String {
        let Some(common) = &mut entry.common_properties else { return format!("{entry:?}") };
        if bare {
            common.stream_id.clear();
            common.upstream_cluster.clear();
            common.upstream_remote_address = None;
            common.upstream_request_attempt_count = 0;
            (common.upstream_wire_bytes_sent, common.upstream_wire_bytes_received) = (0, 0);
            (common.downstream_wire_bytes_sent, common.downstream_wire_bytes_received) = (0, 0);
        }
        let mut out = super::without_chance(common);
        _ = writeln!(out, "id {}", !std::mem::take(&mut common.stream_id).is_empty());
        if let Some(tls) = &mut common.tls_properties {
            // rustls tells no session id; the client's last alert may or may not be counted among the bytes.
            tls.tls_session_id.clear();
            (common.downstream_wire_bytes_sent, common.downstream_wire_bytes_received) = (0, 0);
        }
        _ = writeln!(out, "{entry:#?}");
        out.replace(&addr.port().to_string(), "LISTENER")
            .replace(&self.origin.addr.port().to_string(), "ORIGIN")
            .replace(&self.refused.to_string(), "REFUSED")
    }
}

#[tokio::test]
async fn entries_about_connections_are_those_of_envoy() {
    let pki = Pki::new().unwrap();
    pki.sign("server", "ca", "DNS:server.example.com,URI:spiffe://fleet/server", Life::Now).unwrap();
    pki.sign("client", "ca", "URI:spiffe://fleet/client,DNS:client.example.com", Life::Now).unwrap();
    let identity =
        certs::Pair { chain: pki.read("client.pem").unwrap(), key: pki.read("client.key").unwrap() };
    let identity = Tls::new(&pki.read("ca.pem").unwrap(), "server.example.com", Some(&identity)).unwrap();
    let (envoy, ours) = tokio::try_join!(
        Side::start("envoy", installed("envoy"), &["--disable-hot-restart"], &pki),
        Side::start("proxy", built("portolan-proxy").unwrap(), &[], &pki),
    )
    .unwrap();
    let mut wrong = String::new();
    for listener in ["bytes", "refused", "nowhere", "tls", "listened"] {
        let (theirs, own) = (envoy.entry(listener, &identity).await, ours.entry(listener, &identity).await);
        if theirs != own {
            _ = writeln!(wrong, "=== {listener}\n{}", pair::difference(&theirs, &own));
        }
    }
    assert!(wrong.is_empty(), "ours must log as Envoy does (- Envoy, + ours):\n{wrong}");
}

/// Connections of listeners that carry bytes are told to the service that the Gateway names, which nothing else names.
async fn a_gateway_tells_of_connections(ours: bool) {
    let control = Control::start(&[]).await.unwrap();
    let (origin, collector) = (Origin::start().await.unwrap(), Collector::start().await.unwrap());
    control.register("logs", "one", collector.addr, None).await.unwrap();
    for service in ["db", "sealed"] {
        control.register(service, "one", origin.addr, None).await.unwrap();
    }
    let (port, sealed_port) = (free_port().unwrap(), free_port().unwrap());
    let objects = format!(
        "
kind: Gateway
name: edge
spec:
  group: edge
  listeners:
  - {{name: db, protocol: TCP, address: 127.0.0.1, port: {port}}}
  - {{name: sealed, protocol: TLS_PASSTHROUGH, hostnames: [sealed.test], address: 127.0.0.1, port: {sealed_port}}}
  access_log: {{service: logs}}
---
{{kind: Service, name: logs, spec: {{protocol: HTTP2}}}}
---
{{kind: Route, name: db, spec: {{gateways: [edge], listeners: [db], rules: [{{backends: [{{service: db}}]}}]}}}}
---
{{kind: Route, name: sealed, spec: {{gateways: [edge], listeners: [sealed], hosts: [sealed.test], rules: [{{backends: [{{service: sealed}}]}}]}}}}
"
    );
    control.apply(&objects).await.unwrap();
    let process = super::start(&control, ours).await;
    let addr =
        eventually("the gateway's listener is there", async || process.listener("edge/db").await).await;
    eventually("it serves", async || {
        let mut client = Client::send(addr, b"DO echo\nhello").await?;
        client.finish().await?;
        let (echoed, _) = client.rest().await?;
        ensure!(echoed.starts_with(b"hello"), "{echoed:?}");
        Ok(())
    })
    .await;
    // Nothing behind it speaks TLS: that a connection was passed on is all there is to tell.
    let pki = Pki::new().unwrap();
    let sealed = Tls::new(&pki.read("ca.pem").unwrap(), "sealed.test", None).unwrap();
    let addr =
        eventually("its other listener is there", async || process.listener("edge/sealed").await).await;
    eventually("entries arrive of both", async || -> Result<_> {
        let _ = sealed.connect(addr).await;
        let all = entries(&collector)?;
        let of = |cluster: &str| {
            let named = |e: &&TcpAccessLogEntry| {
                e.common_properties.as_ref().is_some_and(|c| c.upstream_cluster == cluster)
            };
            let received = |e: &TcpAccessLogEntry| Some(e.connection_properties.as_ref()?.received_bytes);
            all.iter().filter(named).filter_map(received).collect::<Vec<_>>()
        };
        ensure!(of("db").contains(&13) && of("sealed").iter().any(|bytes| *bytes > 100), "{all:#?}");
        Ok(())
    })
    .await;
    let (_, message) = collector.messages().remove(0);
    let identifier = StreamAccessLogsMessage::decode(message).unwrap().identifier.unwrap();
    assert_eq!(identifier.log_name, "edge", "the gateway's name");
    let status = control.status().await.unwrap().to_string();
    assert!(!status.contains("\"nack\":{"), "{status}");
}

#[tokio::test]
async fn a_gateway_tells_of_connections_through_real_envoy() {
    a_gateway_tells_of_connections(false).await;
}

#[tokio::test]
async fn a_gateway_tells_of_connections_through_our_proxy() {
    a_gateway_tells_of_connections(true).await;
}
