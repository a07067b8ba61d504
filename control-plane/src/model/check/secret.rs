//! Checks of a Secret's shape, and of an AccessToken. What a Secret holds is checked before it is sealed.

use super::Checker;
use xds_types::portolan::config::v1::{AccessToken, Secret, access_token};

pub(super) fn check(s: &Secret, at: &mut Checker<'_>) {
    let Secret { from, groups } = s;
    for (i, group) in groups.iter().enumerate() {
        if group.is_empty() {
            at.error(format!("spec.groups[{i}]"), "must not be empty");
        }
    }
    if from.is_none() {
        at.error("spec", "must hold a certificate, authorities or a value");
    }
}

pub(super) fn check_token(t: &AccessToken, at: &mut Checker<'_>) {
    let AccessToken { role, sha256, created: _, created_by: _, expires: _ } = t;
    if access_token::Role::try_from(*role).is_err() {
        at.error("spec.role", "is not a role");
    }
    if sha256.len() != 64 || !sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        at.error("spec.sha256", "must be a SHA-256 in lowercase hex; `portolan token create` makes tokens");
    }
}
