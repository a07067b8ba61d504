//! A fleet of two groups, one of which is changed first.

use anyhow::{Result, ensure};
use e2e::client::Client;
use e2e::control::Control;
use e2e::envoy::Envoy;
use e2e::process::free_port;
use e2e::upstream::Upstream;
use e2e::{eventually, proxy};
use serde_json::Value;

/// Which program is the proxy of the group that is changed first.
#[derive(Clone, Copy, Debug)]
pub(super) enum Program {
    Ours,
    Envoy,
}

impl Program {
    pub(super) async fn start(self, bootstrap: &str) -> Result<Envoy> {
        match self {
            Self::Ours => proxy::start(bootstrap).await,
            Self::Envoy => Envoy::start(bootstrap).await,
        }
    }
}

/// A gateway of its own for each of two groups, and a Route on both.
pub(super) struct Fleet {
    ports: [u16; 2],
    client: Client,
    _upstreams: [Upstream; 2],
}

pub(super) const EDGE: usize = 0;
pub(super) const CANARY: usize = 1;

pub(super) fn route(service: &str) -> String {
    format!(
        "kind: Route\nname: web\nspec: {{gateways: [edge, canary], rules: [{{backends: [{{service: {service}}}]}}]}}\n"
    )
}

/// A Service that passes admission and that Envoy refuses: there is no such transport.
pub(super) const REFUSED: &str = "
kind: Service
name: one
spec:
  patch:
    cluster:
      transport_socket: {name: no_such_transport, typed_config: {'@type': type.googleapis.com/google.protobuf.Empty}}
";

impl Fleet {
    pub(super) async fn new(control: &Control) -> Self {
        let upstreams = [Upstream::start("one").await.unwrap(), Upstream::start("two").await.unwrap()];
        for (service, upstream) in ["one", "two"].iter().zip(&upstreams) {
            control.register(service, service, upstream.addr, None).await.unwrap();
        }
        let ports = [free_port().unwrap(), free_port().unwrap()];
        let gateway = |group: &str, port: u16| {
            format!(
                "kind: Gateway\nname: {group}\nspec: {{group: {group}, listeners: [{{name: web, address: 127.0.0.1, port: {port}}}]}}\n---\n"
            )
        };
        let all = gateway("edge", ports[EDGE]) + &gateway("canary", ports[CANARY]) + &route("one");
        control.apply(&all).await.unwrap(); // release 1
        Self { ports, client: Client::h1(), _upstreams: upstreams }
    }

    pub(super) async fn ask(&self, group: usize, path: &str) -> Result<String> {
        let answer = self.client.get(&format!("http://127.0.0.1:{}{path}", self.ports[group])).await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        Ok(answer.header("x-instance").to_owned())
    }

    pub(super) async fn reaches(&self, group: usize, instance: &str) {
        self.reaches_at(group, "/", instance).await;
    }

    pub(super) async fn reaches_at(&self, group: usize, path: &str, instance: &str) {
        eventually(&format!("group {group} reaches {instance} at {path}"), async || {
            let answered = self.ask(group, path).await?;
            ensure!(answered == instance, "{answered} answered");
            Ok(())
        })
        .await;
    }

    pub(super) async fn stays(&self, group: usize, instance: &str) {
        self.stays_at(group, "/", instance).await;
    }

    pub(super) async fn stays_at(&self, group: usize, path: &str, instance: &str) {
        for _ in 0..20 {
            assert_eq!(self.ask(group, path).await.unwrap(), instance, "group {group} at {path}");
        }
    }
}

pub(super) async fn status(control: &Control) -> Value {
    control.status().await.unwrap()
}

/// All proxies have accepted all they were sent.
pub(super) async fn in_sync(control: &Control, nodes: usize) {
    eventually("the proxies are in sync", async || {
        let status = status(control).await;
        let all = status["nodes"].as_array().cloned().unwrap_or_default();
        ensure!(all.len() == nodes, "{all:?}");
        for kind in all.iter().flat_map(|n| n["types"].as_array().cloned().unwrap_or_default()) {
            ensure!(kind["sent_version"] == kind["acked_version"], "{kind}");
        }
        Ok(())
    })
    .await;
}
