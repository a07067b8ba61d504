//! The API over gRPC.

use super::{ApiError, Guarded};
use crate::access::Caller;
use tonic::{Request, Response, Status};
use xds_types::portolan::api::v1;
use xds_types::portolan::api::v1::control_plane_server::{ControlPlane, ControlPlaneServer};

/// Path of every call.
pub const PATH: &str = "/portolan.api.v1.ControlPlane/{call}";
/// Largest request: a thousand objects with room to spare.
const MAX_REQUEST: usize = 16 << 20;

/// The gRPC service.
pub fn service(api: Guarded) -> ControlPlaneServer<impl ControlPlane> {
    ControlPlaneServer::new(Grpc(api)).max_decoding_message_size(MAX_REQUEST)
}

struct Grpc(Guarded);

/// Who calls, as the door has written down in the request.
fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let missing = || ApiError::Denied("the caller was not asked who it is".to_owned());
    Ok(request.extensions().get::<Caller>().cloned().ok_or_else(missing)?)
}

#[tonic::async_trait]
impl ControlPlane for Grpc {
    async fn apply(&self, r: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        let caller = caller(&r)?;
        Ok(self.0.apply(&caller, r.into_inner()).await.map(Response::new)?)
    }

    async fn get(&self, r: Request<v1::GetRequest>) -> Result<Response<v1::StoredObject>, Status> {
        Ok(self.0.get(&caller(&r)?, r.get_ref()).map(Response::new)?)
    }

    async fn list(&self, r: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        Ok(self.0.list(&caller(&r)?, r.get_ref()).map(Response::new)?)
    }

    async fn delete(&self, r: Request<v1::DeleteRequest>) -> Result<Response<v1::DeleteResponse>, Status> {
        let caller = caller(&r)?;
        Ok(self.0.delete(&caller, r.into_inner()).await.map(Response::new)?)
    }

    async fn validate(
        &self,
        r: Request<v1::ValidateRequest>,
    ) -> Result<Response<v1::ValidateResponse>, Status> {
        let caller = caller(&r)?;
        Ok(self.0.validate(&caller, r.into_inner()).await.map(Response::new)?)
    }

    async fn register_instance(
        &self,
        r: Request<v1::RegisterInstanceRequest>,
    ) -> Result<Response<v1::RegisterInstanceResponse>, Status> {
        let caller = caller(&r)?;
        Ok(self.0.register(&caller, r.into_inner()).await.map(Response::new)?)
    }

    async fn heartbeat(
        &self,
        r: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let caller = caller(&r)?;
        Ok(self.0.heartbeat(&caller, r.into_inner()).await.map(Response::new)?)
    }

    async fn deregister_instance(
        &self,
        r: Request<v1::DeregisterInstanceRequest>,
    ) -> Result<Response<v1::DeregisterInstanceResponse>, Status> {
        let caller = caller(&r)?;
        Ok(self.0.deregister(&caller, r.into_inner()).await.map(Response::new)?)
    }

    async fn list_instances(
        &self,
        r: Request<v1::ListInstancesRequest>,
    ) -> Result<Response<v1::ListInstancesResponse>, Status> {
        Ok(self.0.instances(&caller(&r)?, r.get_ref()).map(Response::new)?)
    }

    async fn accept_loss(
        &self,
        r: Request<v1::AcceptLossRequest>,
    ) -> Result<Response<v1::AcceptLossResponse>, Status> {
        let caller = caller(&r)?;
        Ok(self.0.accept_loss(&caller, r.into_inner()).await.map(Response::new)?)
    }

    async fn status(&self, r: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        Ok(self.0.status(&caller(&r)?, r.get_ref()).map(Response::new)?)
    }

    async fn create_token(
        &self,
        r: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let caller = caller(&r)?;
        Ok(self.0.create_token(&caller, r.into_inner()).await.map(Response::new)?)
    }

    async fn list_tokens(
        &self,
        r: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        Ok(self.0.tokens(&caller(&r)?).map(Response::new)?)
    }

    async fn revoke_token(
        &self,
        r: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        let caller = caller(&r)?;
        Ok(self.0.revoke_token(&caller, r.into_inner()).await.map(Response::new)?)
    }

    async fn reseal_secrets(
        &self,
        r: Request<v1::ResealSecretsRequest>,
    ) -> Result<Response<v1::ResealSecretsResponse>, Status> {
        let caller = caller(&r)?;
        Ok(self.0.reseal(&caller, r.into_inner()).await.map(Response::new)?)
    }

    async fn history(&self, r: Request<v1::HistoryRequest>) -> Result<Response<v1::HistoryResponse>, Status> {
        Ok(self.0.history(&caller(&r)?, r.get_ref()).await.map(Response::new)?)
    }

    async fn diff(&self, r: Request<v1::DiffRequest>) -> Result<Response<v1::DiffResponse>, Status> {
        let caller = caller(&r)?;
        Ok(self.0.diff(&caller, r.into_inner()).await.map(Response::new)?)
    }

    async fn promote(&self, r: Request<v1::PromoteRequest>) -> Result<Response<v1::PromoteResponse>, Status> {
        let caller = caller(&r)?;
        Ok(self.0.promote(&caller, r.into_inner()).await.map(Response::new)?)
    }

    async fn abort(&self, r: Request<v1::AbortRequest>) -> Result<Response<v1::AbortResponse>, Status> {
        let caller = caller(&r)?;
        Ok(self.0.abort(&caller, r.into_inner()).await.map(Response::new)?)
    }

    async fn rollback(
        &self,
        r: Request<v1::RollbackRequest>,
    ) -> Result<Response<v1::RollbackResponse>, Status> {
        let caller = caller(&r)?;
        Ok(self.0.rollback(&caller, r.into_inner()).await.map(Response::new)?)
    }
}
