//! Secrets: what they hold is checked, encrypted before it goes anywhere, and decrypted only to be served.
//!
//! | module | what it owns |
//! |---|---|
//! | [`vault`] | the encryption keys; seals and opens |
//! | [`certificate`] | what certificates and keys say, and whether they fit |
//!
//! A Secret in the clear lives from its arrival (API, file) to [`seal`], and from [`Vault::open`] to the resource
//! that is served. In between, and so in every store, view, answer and dump, it is a `Sealed`.

pub mod certificate;
pub mod vault;

use std::time::SystemTime;

use crate::model::{ObjectKey, Problems};
use xds_types::portolan::config::v1::{Resource, Sealed, Secret, resource::Spec, secret::From};

pub use vault::{Vault, VaultError};

/// Name of the Secret that holds the built-in authority.
pub const AUTHORITY: &str = "portolan-ca";

/// Checks what a Secret in the clear holds, and puts its sealed form in its place. Does nothing to other objects,
/// and to what is sealed already. What is refused is taken out: nothing of it may come into an answer.
pub fn seal(vault: &Vault, key: &ObjectKey, resource: &mut Resource, now: SystemTime, found: &mut Problems) {
    seal_by(key, resource, now, found, |secret| vault.seal(key.name.as_str(), secret));
}

/// The same for what files hold in the clear anyway: sealed by a key of this process, not to be stored.
pub fn seal_for_now(
    vault: &Vault,
    key: &ObjectKey,
    resource: &mut Resource,
    now: SystemTime,
    found: &mut Problems,
) {
    seal_by(key, resource, now, found, |secret| vault.seal_for_now(key.name.as_str(), secret));
}

fn seal_by(
    key: &ObjectKey,
    resource: &mut Resource,
    now: SystemTime,
    found: &mut Problems,
    seal: impl FnOnce(&Secret) -> Result<Sealed, VaultError>,
) {
    let Some(Spec::Secret(secret)) = &mut resource.spec else { return };
    let holds = match &secret.from {
        Some(From::Certificate(_)) => "certificate",
        Some(From::Authorities(_)) => "authorities",
        Some(From::Value(_)) => "value",
        Some(From::Sealed(_)) | None => return,
    };
    let mut own = Problems::default();
    let certificates = certificate::check(key, secret, now, &mut own);
    let inner = Secret { from: secret.from.take(), groups: Vec::new() };
    if !own.has_errors() {
        match seal(&inner) {
            Ok(sealed) => {
                secret.from = Some(From::Sealed(Sealed { holds: holds.to_owned(), certificates, ..sealed }));
            }
            Err(error) => own.error(key, "spec", error.to_string()),
        }
    }
    found.extend(own.list);
}
