//! What differs between SotW and delta streams: messages, methods, machines.

use crate::xds::kind::Kind;
use crate::xds::subscription::{Delta, DeltaRequest, Interest, Sotw, SotwRequest};
use crate::xds::update::{Update, Verdict};
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;
use xds_types::envoy::config::core::v3::{ControlPlane, Node};
use xds_types::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use xds_types::google::rpc::Status;

/// `error_detail.code` of a NACK: INTERNAL, as Envoy's.
const NACK_CODE: i32 = 13;

/// One of the two protocols.
pub(super) trait Protocol: 'static {
    type Machine: Default;
    type Ask;
    type Request: prost::Message + Default + 'static;
    type Response: prost::Message + Default + 'static;

    /// The answer to the newest response of a type is one to all before it.
    const NEWEST_ANSWERS_ALL: bool;

    /// The gRPC method; `None`: of the aggregated service.
    fn path(only: Option<Kind>) -> PathAndQuery;
    fn open(machine: &mut Self::Machine) -> Option<Self::Ask>;
    fn close(machine: &mut Self::Machine);
    fn set_interest(machine: &mut Self::Machine, interest: Interest) -> Option<Self::Ask>;
    fn request(ask: Self::Ask, kind: Kind, node: Option<Node>) -> Self::Request;
    /// Type URL and identifier of the sender.
    fn describe(response: &Self::Response) -> (&str, Option<&str>);
    /// Applies a response and makes its answer.
    fn deal(
        machine: &mut Self::Machine,
        kind: Kind,
        response: Self::Response,
        apply: impl FnOnce(Update) -> Verdict,
    ) -> Option<Self::Ask>;

    fn codec() -> ProstCodec<Self::Request, Self::Response> {
        ProstCodec::default()
    }
}

pub(super) struct SotwApi;

impl Protocol for SotwApi {
    type Machine = Sotw;
    type Ask = SotwRequest;
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    const NEWEST_ANSWERS_ALL: bool = true;

    fn path(only: Option<Kind>) -> PathAndQuery {
        PathAndQuery::from_static(match only {
            None => "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
            Some(Kind::Cluster) => "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters",
            Some(Kind::Endpoints) => "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints",
            Some(Kind::Listener) => "/envoy.service.listener.v3.ListenerDiscoveryService/StreamListeners",
            Some(Kind::Route) => "/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes",
            Some(Kind::Secret) => "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
        })
    }

    fn open(machine: &mut Sotw) -> Option<SotwRequest> {
        machine.open()
    }

    fn close(machine: &mut Sotw) {
        machine.close();
    }

    fn set_interest(machine: &mut Sotw, interest: Interest) -> Option<SotwRequest> {
        machine.set_interest(interest)
    }

    fn request(ask: SotwRequest, kind: Kind, node: Option<Node>) -> DiscoveryRequest {
        DiscoveryRequest {
            version_info: ask.version,
            node,
            resource_names: ask.names,
            type_url: kind.type_url().into(),
            response_nonce: ask.nonce,
            error_detail: ask.error.map(nack),
            ..DiscoveryRequest::default()
        }
    }

    fn describe(response: &DiscoveryResponse) -> (&str, Option<&str>) {
        (&response.type_url, identifier(response.control_plane.as_ref()))
    }

    fn deal(
        machine: &mut Sotw,
        kind: Kind,
        response: DiscoveryResponse,
        apply: impl FnOnce(Update) -> Verdict,
    ) -> Option<SotwRequest> {
        let pending = machine.received(response.nonce.clone());
        let version = response.version_info.clone();
        let verdict = apply(Update::sotw(response));
        machine.settled(pending, verdict.error(kind).map_or(Ok(version), Err))
    }
}

pub(super) struct DeltaApi;

impl Protocol for DeltaApi {
    type Machine = Delta;
    type Ask = DeltaRequest;
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    const NEWEST_ANSWERS_ALL: bool = false;

    fn path(only: Option<Kind>) -> PathAndQuery {
        PathAndQuery::from_static(match only {
            None => "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
            Some(Kind::Cluster) => "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters",
            Some(Kind::Endpoints) => "/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints",
            Some(Kind::Listener) => "/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners",
            Some(Kind::Route) => "/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes",
            Some(Kind::Secret) => "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets",
        })
    }

    fn open(machine: &mut Delta) -> Option<DeltaRequest> {
        machine.open()
    }

    fn close(machine: &mut Delta) {
        machine.close();
    }

    fn set_interest(machine: &mut Delta, interest: Interest) -> Option<DeltaRequest> {
        machine.set_interest(interest)
    }

    fn request(ask: DeltaRequest, kind: Kind, node: Option<Node>) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            node,
            type_url: kind.type_url().into(),
            resource_names_subscribe: ask.subscribe,
            resource_names_unsubscribe: ask.unsubscribe,
            initial_resource_versions: ask.held.into_iter().collect(),
            response_nonce: ask.nonce,
            error_detail: ask.error.map(nack),
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn describe(response: &DeltaDiscoveryResponse) -> (&str, Option<&str>) {
        (&response.type_url, identifier(response.control_plane.as_ref()))
    }

    fn deal(
        machine: &mut Delta,
        kind: Kind,
        response: DeltaDiscoveryResponse,
        apply: impl FnOnce(Update) -> Verdict,
    ) -> Option<DeltaRequest> {
        let pending = machine.received(response.nonce.clone());
        let verdict = apply(Update::delta(response));
        machine.settled(pending, verdict.delta(kind))
    }
}

fn nack(message: String) -> Status {
    Status { code: NACK_CODE, message, details: Vec::new() }
}

fn identifier(control_plane: Option<&ControlPlane>) -> Option<&str> {
    control_plane.map(|c| &*c.identifier).filter(|i| !i.is_empty())
}
