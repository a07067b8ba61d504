//! Calls about tokens, and about how secrets are stored.

use super::commit::{Cause, Plan, Planned};
use super::{Api, ApiError};
use crate::access::{NewToken, Role, new_token};
use crate::model::{Kind, ObjectKey, ObjectName};
use crate::release::Action;
use crate::source::store::Write;
use std::time::SystemTime;
use xds_types::portolan::api::v1;
use xds_types::portolan::config::v1::{AccessToken, Resource, Secret, access_token, resource::Spec, secret};

/// Secrets encrypted anew in one transaction, so that every store takes it.
const AT_ONCE: usize = 32;

impl Api {
    /// Makes a token. The answer holds it, and nothing else ever does.
    ///
    /// # Errors
    /// The name is taken or none; the role is unknown; the store is away.
    pub async fn create_token(
        &self,
        by: &str,
        r: v1::CreateTokenRequest,
    ) -> Result<v1::CreateTokenResponse, ApiError> {
        let name =
            ObjectName::new(&r.name).map_err(|e| ApiError::Invalid(format!("name `{}` {e}", r.name)))?;
        if access_token::Role::try_from(r.role).is_err() {
            return Err(ApiError::Invalid(format!("role {} is unknown", r.role)));
        }
        let now = SystemTime::now();
        let ttl = match r.ttl {
            None => None,
            Some(ttl) => match crate::model::check::to_duration(&ttl) {
                Some(d) if !d.is_zero() && d.as_secs() < 10 * 365 * 86_400 => Some(d),
                _ => {
                    return Err(ApiError::Invalid("ttl must be more than 0s and below ten years".to_owned()));
                }
            },
        };
        let NewToken { token, stored } = new_token(Role::of(r.role), by, now, ttl.map(|d| now + d));
        let resource =
            Resource { name: r.name, spec: Some(Spec::Token(stored.clone())), ..Resource::default() };
        let text = xds_types::resource::to_json(&resource).to_string();
        let key = ObjectKey::new(Kind::AccessToken, name);
        let taken = |e: ApiError| match e {
            ApiError::Conflict(_) => ApiError::Conflict(format!("{key} exists: revoke it first")),
            other => other,
        };
        let write = Write { key: key.clone().into(), text: Some(text), expected: Some(0) };
        self.stores().config.write(vec![write]).await.map_err(|e| taken(e.into()))?;
        self.settled(|view| view.objects.states().contains_key(&key)).await;
        Ok(v1::CreateTokenResponse { token, stored: Some(shown(&resource.name, &stored)) })
    }

    /// What there is of tokens, by name.
    pub fn tokens(&self) -> v1::ListTokensResponse {
        let view = self.view();
        let objects = view.objects.states().values().filter(|s| s.newest.key.kind == Kind::AccessToken);
        let one =
            |s: &crate::translate::ObjectState| Some(shown(s.newest.key.name.as_str(), s.newest.token()?));
        v1::ListTokensResponse { tokens: objects.filter_map(one).collect() }
    }

    /// Encrypts every Secret of the store with the newest key, so that the older ones can be thrown away.
    ///
    /// # Errors
    /// No key is configured; a Secret changed meanwhile; the store is away.
    pub async fn reseal(&self, by: &str) -> Result<v1::ResealSecretsResponse, ApiError> {
        let trust = self.pipeline().trust().clone();
        let newest = trust.vault.key_id().map(str::to_owned);
        let view = self.view();
        let mut planned = Vec::new();
        let mut left = Vec::new();
        for state in view.objects.states().values() {
            let object = &state.newest;
            let (Some(sealed), Some(resource)) = (object.sealed(), object.resource()) else { continue };
            let here = state.source == *self.stores().config.id();
            if !here || newest.as_deref() == Some(sealed.key_id.as_str()) {
                continue;
            }
            let name = object.key.name.as_str();
            let opened = trust.vault.open(name, sealed);
            let again = opened.and_then(|secret| trust.vault.seal(name, &secret));
            let Ok(again) = again else {
                left.push(object.key.to_string());
                continue;
            };
            let again = xds_types::portolan::config::v1::Sealed {
                holds: sealed.holds.clone(),
                certificates: sealed.certificates.clone(),
                ..again
            };
            let mut resource = (**resource).clone();
            if let Some(Spec::Secret(Secret { from, .. })) = &mut resource.spec {
                *from = Some(secret::From::Sealed(again));
            }
            let text = Some(super::commit::json(&resource));
            planned.push(Planned { key: object.key.clone(), text, stored: Some(object.clone()), firm: true });
        }
        let resealed = planned.iter().map(|p| p.key.to_string()).collect();
        let cause = Cause::new(by, "", Action::Reseal)?;
        for some in planned.chunks(AT_ONCE) {
            let next = self.next_release().await?;
            self.commit(&cause, &next, Plan::of(some.to_vec())).await?;
        }
        Ok(v1::ResealSecretsResponse { resealed, left })
    }
}

fn shown(name: &str, token: &AccessToken) -> v1::Token {
    let AccessToken { role, sha256: _, created, created_by, expires } = token;
    v1::Token {
        name: name.to_owned(),
        role: *role,
        created: *created,
        created_by: created_by.clone(),
        expires: *expires,
    }
}

/// A Secret or token as it may be shown.
pub(super) fn without_secrets(resource: &Resource) -> Resource {
    let mut shown = resource.clone();
    match &mut shown.spec {
        Some(Spec::Secret(s)) => match &mut s.from {
            Some(secret::From::Sealed(sealed)) => {
                sealed.nonce.clear();
                sealed.ciphertext.clear();
            }
            other => *other = None,
        },
        Some(Spec::Token(t)) => t.sha256.clear(),
        Some(Spec::Stage(s)) => s.objects.iter_mut().for_each(|o| o.text.clear()),
        _ => {}
    }
    shown
}
