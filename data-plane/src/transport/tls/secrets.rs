//! What a context is built from: what is written in place, and the slots of what is delivered.

use super::slot::{SecretSlot, SecretSlots};
use data_plane_core::config::{
    SdsReference, SecretKind, SecretSource, TicketKeys, TlsCertificate, ValidationContext, ValidationSource,
};
use std::sync::Arc;

/// The slots of a context.
pub(super) struct Source(Vec<(SdsReference, Arc<SecretSlot>)>);

impl Source {
    pub(super) fn new<'a>(secrets: impl Iterator<Item = &'a SdsReference>, slots: &SecretSlots) -> Self {
        Self(secrets.map(|reference| (reference.clone(), slots.get(reference))).collect())
    }

    /// Whether all secrets came.
    pub(super) fn is_ready(&self) -> bool {
        self.0.iter().all(|(_, slot)| slot.is_ready())
    }

    /// Changes whenever one of the secrets does: each only counts up. Read before the secrets are.
    pub(super) fn version(&self) -> u64 {
        self.0.iter().map(|(_, slot)| slot.version()).sum()
    }

    fn kind(&self, reference: &SdsReference) -> Result<SecretKind, String> {
        let slot = self.0.iter().find(|(known, _)| known == reference).map(|(_, slot)| slot);
        let secret = slot.and_then(|slot| slot.load());
        secret
            .map(|secret| secret.kind.clone())
            .ok_or_else(|| format!("secret {:?} is missing", reference.name))
    }

    pub(super) fn certificate(
        &self,
        source: &SecretSource<TlsCertificate>,
    ) -> Result<Arc<TlsCertificate>, String> {
        match source {
            SecretSource::Inline(inline) => Ok(Arc::clone(inline)),
            SecretSource::Sds(reference) => match self.kind(reference)? {
                SecretKind::Certificate(certificate) => Ok(certificate),
                other => Err(wrong(reference, &other, "tls_certificate")),
            },
        }
    }

    pub(super) fn ticket_keys(&self, source: &SecretSource<TicketKeys>) -> Result<Arc<TicketKeys>, String> {
        match source {
            SecretSource::Inline(inline) => Ok(Arc::clone(inline)),
            SecretSource::Sds(reference) => match self.kind(reference)? {
                SecretKind::TicketKeys(keys) => Ok(keys),
                other => Err(wrong(reference, &other, "session_ticket_keys")),
            },
        }
    }

    pub(super) fn validation(
        &self,
        source: Option<&ValidationSource>,
    ) -> Result<Option<Arc<ValidationContext>>, String> {
        let delivered = |reference: &SdsReference| match self.kind(reference)? {
            SecretKind::Validation(context) => Ok(context),
            other => Err(wrong(reference, &other, "validation_context")),
        };
        Ok(match source {
            None => None,
            Some(ValidationSource::Inline(inline)) => Some(Arc::clone(inline)),
            Some(ValidationSource::Sds(reference)) => Some(delivered(reference)?),
            Some(ValidationSource::Combined { default, sds }) => {
                Some(Arc::new(default.overlaid(&*delivered(sds)?)))
            }
        })
    }
}

fn wrong(reference: &SdsReference, found: &SecretKind, wanted: &str) -> String {
    format!("secret {:?} is a {}, not a {wanted}", reference.name, found.of())
}
