//! Every call with who makes it: the role is checked, and what changes anything is written to the audit log.

use super::{Api, ApiError};
use crate::access::{Access, Audit, Caller, Denied, Entry, Outcome, Role};
use crate::model::Object;
use crate::secret::AUTHORITY;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;
use xds_types::portolan::api::v1;
use xds_types::portolan::config::v1::{Resource, resource::Spec};

/// The API behind its door. Clones share it.
#[derive(Clone)]
pub struct Guarded {
    api: Api,
    access: Arc<Access>,
    audit: Arc<Audit>,
}

impl Guarded {
    /// An API, who is let in, and where calls are written down.
    pub fn new(api: Api, access: Access, audit: Audit) -> Self {
        Self { api, access: Arc::new(access), audit: Arc::new(audit) }
    }

    /// Whether a configuration was published: `readyz`.
    pub fn is_ready(&self) -> bool {
        self.api.is_ready()
    }

    /// Who presents an `authorization` header.
    ///
    /// # Errors
    /// None was presented, or it is not valid. That is written down.
    pub fn identify(
        &self,
        authorization: Option<&[u8]>,
        peer: Option<SocketAddr>,
        certificate: Arc<[String]>,
        path: &str,
    ) -> Result<Caller, Denied> {
        let now = SystemTime::now();
        match self.access.identify(authorization, peer, &self.api.view(), now) {
            Ok(caller) => Ok(Caller { certificate, ..caller }),
            Err(denied) => {
                let nobody = Caller { name: "nobody".into(), role: Role::Viewer, certificate, peer };
                let reason = denied.to_string();
                let (action, objects, outcome) = (path, &[] as &[String], Outcome::Denied);
                self.audit.record(&Entry { caller: &nobody, action, objects, outcome, reason: &reason }, now);
                Err(denied)
            }
        }
    }

    fn note<T>(&self, caller: &Caller, action: &str, objects: &[String], answer: &Result<T, ApiError>) {
        let (outcome, reason) = match answer {
            Ok(_) => (Outcome::Done, String::new()),
            Err(error @ ApiError::Denied(_)) => (Outcome::Denied, error.to_string()),
            Err(error @ ApiError::Unavailable(_)) => (Outcome::Failed, error.to_string()),
            Err(error) => (Outcome::Refused, error.to_string()),
        };
        self.audit.record(&Entry { caller, action, objects, outcome, reason: &reason }, SystemTime::now());
    }

    /// Does something that changes something: the role is checked, and it is written down.
    async fn change<T>(
        &self,
        caller: &Caller,
        least: Role,
        action: &str,
        objects: Vec<String>,
        call: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        let answer = match may(caller, least) {
            Ok(()) => call.await,
            Err(denied) => Err(denied),
        };
        self.note(caller, action, &objects, &answer);
        answer
    }

    /// See [`Api::apply`]. Operators; the built-in authority: admins.
    ///
    /// # Errors
    /// As there.
    pub async fn apply(&self, caller: &Caller, r: v1::ApplyRequest) -> Result<v1::ApplyResponse, ApiError> {
        let resources = || r.objects.iter().filter_map(|o| o.resource.as_ref());
        let least = resources().map(role_for).max().unwrap_or(Role::Operator);
        let deletes = r.deletes.iter().filter_map(|text| text.split_once('/'));
        let least = deletes.map(|(kind, name)| role_to_delete(kind, name)).fold(least, Role::max);
        let objects = resources().map(name_of).chain(r.deletes.iter().cloned()).collect();
        let told = resources().find_map(|r| match r.spec {
            Some(Spec::Token(_)) => {
                Some("tokens are made by `portolan token create`, which alone shows them")
            }
            Some(Spec::Stage(_)) => Some("stages are made by `portolan apply --stage GROUP`"),
            _ => None,
        });
        if let Some(told) = told.map(str::to_owned) {
            let refused = async { Err(ApiError::Invalid(told)) };
            return self.change(caller, least, "apply", objects, refused).await;
        }
        let call = self.api.apply(&caller.name, r.clone());
        self.change(caller, least, "apply", objects, call).await
    }

    /// See [`Api::validate`]. Viewers.
    ///
    /// # Errors
    /// As there.
    pub async fn validate(
        &self,
        caller: &Caller,
        r: v1::ValidateRequest,
    ) -> Result<v1::ValidateResponse, ApiError> {
        may(caller, Role::Viewer)?;
        self.api.validate(r).await
    }

    /// See [`Api::get`]. Viewers.
    ///
    /// # Errors
    /// As there.
    pub fn get(&self, caller: &Caller, r: &v1::GetRequest) -> Result<v1::StoredObject, ApiError> {
        may(caller, Role::Viewer)?;
        self.api.get(r)
    }

    /// See [`Api::list`]. Viewers.
    ///
    /// # Errors
    /// As there.
    pub fn list(&self, caller: &Caller, r: &v1::ListRequest) -> Result<v1::ListResponse, ApiError> {
        may(caller, Role::Viewer)?;
        self.api.list(r)
    }

    /// See [`Api::delete`]. Operators; tokens and the built-in authority: admins.
    ///
    /// # Errors
    /// As there.
    pub async fn delete(
        &self,
        caller: &Caller,
        r: v1::DeleteRequest,
    ) -> Result<v1::DeleteResponse, ApiError> {
        let least = role_to_delete(&r.kind, &r.name);
        let objects = vec![format!("{}/{}", r.kind, r.name)];
        if r.kind.eq_ignore_ascii_case("stage") {
            let refused =
                async { Err(ApiError::Invalid("stages are ended by `portolan abort N`".to_owned())) };
            return self.change(caller, least, "delete", objects, refused).await;
        }
        self.change(caller, least, "delete", objects, self.api.delete(&caller.name, r)).await
    }

    /// See [`Api::register`]. Operators.
    ///
    /// # Errors
    /// As there.
    pub async fn register(
        &self,
        caller: &Caller,
        r: v1::RegisterInstanceRequest,
    ) -> Result<v1::RegisterInstanceResponse, ApiError> {
        let objects = r.instance.iter().map(|i| format!("Instance/{}/{}", i.service, i.id)).collect();
        self.change(caller, Role::Operator, "register", objects, self.api.register(r)).await
    }

    /// See [`Api::heartbeat`]. Operators. Too frequent to be written down, unless it is denied.
    ///
    /// # Errors
    /// As there.
    pub async fn heartbeat(
        &self,
        caller: &Caller,
        r: v1::HeartbeatRequest,
    ) -> Result<v1::HeartbeatResponse, ApiError> {
        if let Err(denied) = may(caller, Role::Operator) {
            let answer: Result<(), _> = Err(denied);
            self.note(caller, "heartbeat", &[format!("Instance/{}/{}", r.service, r.id)], &answer);
            return answer.map(|()| v1::HeartbeatResponse::default());
        }
        self.api.heartbeat(r).await
    }

    /// See [`Api::deregister`]. Operators.
    ///
    /// # Errors
    /// As there.
    pub async fn deregister(
        &self,
        caller: &Caller,
        r: v1::DeregisterInstanceRequest,
    ) -> Result<v1::DeregisterInstanceResponse, ApiError> {
        let objects = vec![format!("Instance/{}/{}", r.service, r.id)];
        self.change(caller, Role::Operator, "deregister", objects, self.api.deregister(r)).await
    }

    /// See [`Api::instances`]. Viewers.
    ///
    /// # Errors
    /// As there.
    pub fn instances(
        &self,
        caller: &Caller,
        r: &v1::ListInstancesRequest,
    ) -> Result<v1::ListInstancesResponse, ApiError> {
        may(caller, Role::Viewer)?;
        self.api.instances(r)
    }

    /// See [`Api::accept_loss`]. Operators.
    ///
    /// # Errors
    /// As there.
    pub async fn accept_loss(
        &self,
        caller: &Caller,
        r: v1::AcceptLossRequest,
    ) -> Result<v1::AcceptLossResponse, ApiError> {
        let objects = vec![format!("Instance/{}", r.service)];
        self.change(caller, Role::Operator, "accept loss", objects, self.api.accept_loss(r)).await
    }

    /// See [`Api::status`]. Viewers.
    ///
    /// # Errors
    /// The caller may not.
    pub fn status(&self, caller: &Caller, r: &v1::StatusRequest) -> Result<v1::StatusResponse, ApiError> {
        may(caller, Role::Viewer)?;
        Ok(self.api.status(r))
    }

    /// See [`Api::create_token`]. Admins.
    ///
    /// # Errors
    /// As there.
    pub async fn create_token(
        &self,
        caller: &Caller,
        r: v1::CreateTokenRequest,
    ) -> Result<v1::CreateTokenResponse, ApiError> {
        let objects = vec![format!("AccessToken/{}", r.name)];
        let call = self.api.create_token(&caller.name, r);
        self.change(caller, Role::Admin, "create token", objects, call).await
    }

    /// See [`Api::tokens`]. Admins.
    ///
    /// # Errors
    /// The caller may not.
    pub fn tokens(&self, caller: &Caller) -> Result<v1::ListTokensResponse, ApiError> {
        may(caller, Role::Admin)?;
        Ok(self.api.tokens())
    }

    /// See [`Api::delete`], of a token. Admins.
    ///
    /// # Errors
    /// As there.
    pub async fn revoke_token(
        &self,
        caller: &Caller,
        r: v1::RevokeTokenRequest,
    ) -> Result<v1::RevokeTokenResponse, ApiError> {
        let objects = vec![format!("AccessToken/{}", r.name)];
        let delete = v1::DeleteRequest {
            kind: "AccessToken".to_owned(),
            name: r.name,
            ..v1::DeleteRequest::default()
        };
        let call = async { self.api.delete(&caller.name, delete).await.map(|_| v1::RevokeTokenResponse {}) };
        self.change(caller, Role::Admin, "revoke token", objects, call).await
    }

    /// See [`Api::reseal`]. Admins.
    ///
    /// # Errors
    /// As there.
    pub async fn reseal(
        &self,
        caller: &Caller,
        _: v1::ResealSecretsRequest,
    ) -> Result<v1::ResealSecretsResponse, ApiError> {
        self.change(caller, Role::Admin, "reseal secrets", Vec::new(), self.api.reseal(&caller.name)).await
    }

    /// See [`Api::history`]. Viewers.
    ///
    /// # Errors
    /// As there.
    pub async fn history(
        &self,
        caller: &Caller,
        r: &v1::HistoryRequest,
    ) -> Result<v1::HistoryResponse, ApiError> {
        may(caller, Role::Viewer)?;
        self.api.history(r).await
    }

    /// See [`Api::diff`]. Viewers.
    ///
    /// # Errors
    /// As there.
    pub async fn diff(&self, caller: &Caller, r: v1::DiffRequest) -> Result<v1::DiffResponse, ApiError> {
        may(caller, Role::Viewer)?;
        self.api.diff(r).await
    }

    /// See [`Api::promote`]. Operators.
    ///
    /// # Errors
    /// As there.
    pub async fn promote(
        &self,
        caller: &Caller,
        r: v1::PromoteRequest,
    ) -> Result<v1::PromoteResponse, ApiError> {
        let objects = vec![format!("Release/{}", r.release)];
        let call = self.api.promote(&caller.name, r);
        self.change(caller, Role::Operator, "promote", objects, call).await
    }

    /// See [`Api::abort`]. Operators.
    ///
    /// # Errors
    /// As there.
    pub async fn abort(&self, caller: &Caller, r: v1::AbortRequest) -> Result<v1::AbortResponse, ApiError> {
        let objects = vec![format!("Release/{}", r.release)];
        let call = self.api.abort(&caller.name, r);
        self.change(caller, Role::Operator, "abort", objects, call).await
    }

    /// See [`Api::rollback`]. Operators: tokens and the built-in authority are not part of releases.
    ///
    /// # Errors
    /// As there.
    pub async fn rollback(
        &self,
        caller: &Caller,
        r: v1::RollbackRequest,
    ) -> Result<v1::RollbackResponse, ApiError> {
        let objects = r.to.iter().map(|to| format!("Release/{}", to.value)).collect();
        let call = self.api.rollback(&caller.name, r);
        self.change(caller, Role::Operator, "rollback", objects, call).await
    }
}

/// Refuses callers whose role is not enough.
pub(super) fn may(caller: &Caller, least: Role) -> Result<(), ApiError> {
    if caller.role >= least {
        return Ok(());
    }
    Err(ApiError::Denied(format!("{} is {}; this takes {least}", caller.name, caller.role)))
}

fn role_for(resource: &Resource) -> Role {
    match &resource.spec {
        Some(Spec::Token(_)) => Role::Admin,
        Some(Spec::Secret(_)) if resource.name == AUTHORITY => Role::Admin,
        _ => Role::Operator,
    }
}

/// `kind` as a caller wrote it.
fn role_to_delete(kind: &str, name: &str) -> Role {
    let guarded = kind.eq_ignore_ascii_case("accesstoken")
        || (kind.eq_ignore_ascii_case("secret") && name == AUTHORITY);
    if guarded { Role::Admin } else { Role::Operator }
}

fn name_of(resource: &Resource) -> String {
    Object::key_of(resource).map_or_else(|_| resource.name.clone(), |key| key.to_string())
}
