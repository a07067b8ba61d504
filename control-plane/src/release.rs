//! Releases: what every accepted change of objects did, kept so that it can be shown and undone.
//!
//! | module | what it owns |
//! |---|---|
//! | [`record`] | one release, and its form in a store |
//! | [`history`] | all that are kept: what there was at any of them |
//! | [`diff`] | two texts, compared line by line |
//!
//! Pure. `api` writes a record in the same transaction as the objects it is about, numbered one more than the newest:
//! of two changes at once one finds the number taken. Secrets are in records as in the store, encrypted. Tokens and the
//! built-in authority are not: undoing a revocation must not bring a token back.

pub mod diff;
pub mod history;
pub mod record;

use crate::model::{Kind, ObjectKey};
use crate::secret::AUTHORITY;

pub use history::{Gone, History};
pub use record::{Action, Change, Outcome, Record, Text};

/// Whether changes of an object are part of releases.
pub fn is_kept(key: &ObjectKey) -> bool {
    match key.kind {
        Kind::AccessToken | Kind::Stage => false,
        Kind::Secret => key.name.as_str() != AUTHORITY,
        Kind::Service | Kind::Gateway | Kind::Route | Kind::Policy => true,
    }
}
