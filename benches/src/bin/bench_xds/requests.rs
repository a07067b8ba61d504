//! What proxies ask and answer, encoded once for all of them.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use xds_types::ResourceType;
use xds_types::envoy::config::core::v3::Node;
use xds_types::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};

use crate::clients::Names;

/// The dialect that proxies speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// Incremental.
    Delta,
    /// State of the world.
    Sotw,
}

/// What a proxy needs of a response; the same fields in both dialects.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Skim {
    /// SotW: version of the response.
    #[prost(string, tag = "1")]
    pub version: String,
    /// Resources, undecoded.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub resources: Vec<Bytes>,
    #[prost(string, tag = "4")]
    pub type_url: String,
    #[prost(string, tag = "5")]
    pub nonce: String,
}

/// Requests, encoded once for all proxies.
pub(crate) struct Requests {
    mode: Mode,
    pub endpoints: Bytes,
    pub listeners: Bytes,
    pub routes: Bytes,
    /// Names that every SotW acknowledgement repeats, encoded.
    endpoint_names: Bytes,
    route_names: Bytes,
}

impl Requests {
    pub(crate) fn new(mode: Mode, names: &Names) -> Self {
        let subscribe = |kind: ResourceType, names: &[String]| match mode {
            Mode::Delta => frame(
                &DeltaDiscoveryRequest {
                    type_url: kind.type_url().to_owned(),
                    resource_names_subscribe: names.to_vec(),
                    ..Default::default()
                },
                &[],
            ),
            Mode::Sotw => frame(
                &DiscoveryRequest {
                    type_url: kind.type_url().to_owned(),
                    resource_names: names.to_vec(),
                    ..Default::default()
                },
                &[],
            ),
        };
        let repeated = |names: &[String]| -> Bytes {
            match mode {
                Mode::Delta => Bytes::new(),
                Mode::Sotw => DiscoveryRequest { resource_names: names.to_vec(), ..Default::default() }
                    .encode_to_vec()
                    .into(),
            }
        };
        Self {
            mode,
            endpoints: subscribe(ResourceType::ClusterLoadAssignment, &names.clusters),
            listeners: subscribe(ResourceType::Listener, &[]),
            routes: subscribe(ResourceType::RouteConfiguration, &names.routes),
            endpoint_names: repeated(&names.clusters),
            route_names: repeated(&names.routes),
        }
    }

    pub(crate) fn path(&self) -> &'static str {
        match self.mode {
            Mode::Delta => "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
            Mode::Sotw => "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
        }
    }

    /// The first request of a proxy: who it is, and all clusters.
    pub(crate) fn first(&self, index: usize, group: &str) -> Bytes {
        let node = Some(Node {
            id: format!("bench-{index}"),
            cluster: group.to_owned(),
            user_agent_name: "envoy".to_owned(),
            ..Default::default()
        });
        let type_url = ResourceType::Cluster.type_url().to_owned();
        match self.mode {
            Mode::Delta => frame(&DeltaDiscoveryRequest { node, type_url, ..Default::default() }, &[]),
            Mode::Sotw => frame(&DiscoveryRequest { node, type_url, ..Default::default() }, &[]),
        }
    }

    pub(crate) fn ack(&self, kind: ResourceType, response: &Skim) -> Bytes {
        let (type_url, response_nonce) = (response.type_url.clone(), response.nonce.clone());
        match self.mode {
            Mode::Delta => {
                frame(&DeltaDiscoveryRequest { type_url, response_nonce, ..Default::default() }, &[])
            }
            Mode::Sotw => {
                let names: &[u8] = match kind {
                    ResourceType::ClusterLoadAssignment => &self.endpoint_names,
                    ResourceType::RouteConfiguration => &self.route_names,
                    _ => &[],
                };
                let version_info = response.version.clone();
                let ack = DiscoveryRequest { type_url, response_nonce, version_info, ..Default::default() };
                frame(&ack, names)
            }
        }
    }
}

/// A gRPC message: this, and encoded fields after it, which protobuf reads as one message.
fn frame(message: &impl Message, more: &[u8]) -> Bytes {
    let len = message.encoded_len() + more.len();
    let mut out = BytesMut::with_capacity(5 + len);
    out.put_u8(0);
    out.put_u32(u32::try_from(len).expect("INVARIANT: requests are far below 4 GiB"));
    message.encode(&mut out).expect("INVARIANT: the buffer grows");
    out.extend_from_slice(more);
    out.freeze()
}
