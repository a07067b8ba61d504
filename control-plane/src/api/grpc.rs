//! The API over gRPC.

use super::Api;
use tonic::{Request, Response, Status};
use xds_types::portolan::api::v1;
use xds_types::portolan::api::v1::control_plane_server::{ControlPlane, ControlPlaneServer};

/// Path of every call.
pub const PATH: &str = "/portolan.api.v1.ControlPlane/{call}";
/// Largest request: a thousand objects with room to spare.
const MAX_REQUEST: usize = 16 << 20;

/// The gRPC service.
pub fn service(api: Api) -> ControlPlaneServer<impl ControlPlane> {
    ControlPlaneServer::new(Grpc(api)).max_decoding_message_size(MAX_REQUEST)
}

struct Grpc(Api);

#[tonic::async_trait]
impl ControlPlane for Grpc {
    async fn apply(&self, r: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        Ok(self.0.apply(r.into_inner()).await.map(Response::new)?)
    }

    async fn get(&self, r: Request<v1::GetRequest>) -> Result<Response<v1::StoredObject>, Status> {
        Ok(self.0.get(r.get_ref()).map(Response::new)?)
    }

    async fn list(&self, r: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        Ok(self.0.list(r.get_ref()).map(Response::new)?)
    }

    async fn delete(&self, r: Request<v1::DeleteRequest>) -> Result<Response<v1::DeleteResponse>, Status> {
        Ok(self.0.delete(r.into_inner()).await.map(Response::new)?)
    }

    async fn validate(
        &self,
        r: Request<v1::ValidateRequest>,
    ) -> Result<Response<v1::ValidateResponse>, Status> {
        Ok(self.0.validate(r.into_inner()).await.map(Response::new)?)
    }

    async fn register_instance(
        &self,
        r: Request<v1::RegisterInstanceRequest>,
    ) -> Result<Response<v1::RegisterInstanceResponse>, Status> {
        Ok(self.0.register(r.into_inner()).await.map(Response::new)?)
    }

    async fn heartbeat(
        &self,
        r: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        Ok(self.0.heartbeat(r.into_inner()).await.map(Response::new)?)
    }

    async fn deregister_instance(
        &self,
        r: Request<v1::DeregisterInstanceRequest>,
    ) -> Result<Response<v1::DeregisterInstanceResponse>, Status> {
        Ok(self.0.deregister(r.into_inner()).await.map(Response::new)?)
    }

    async fn list_instances(
        &self,
        r: Request<v1::ListInstancesRequest>,
    ) -> Result<Response<v1::ListInstancesResponse>, Status> {
        Ok(self.0.instances(r.get_ref()).map(Response::new)?)
    }

    async fn status(&self, r: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        Ok(Response::new(self.0.status(r.get_ref())))
    }
}
