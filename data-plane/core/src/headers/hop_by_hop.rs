//! Headers that concern one connection only, and are not passed on (RFC 9110 7.6.1).

use super::{RequestHead, ResponseHead};

/// Removes what a proxy must not pass on from a request. Keeps `te: trailers`, and `connection` with `upgrade`
/// when the request asks for an upgrade in `upgrades`.
pub fn strip_request(head: &mut RequestHead, upgrades: &[Box<str>]) {
    let _ = (head, upgrades);
}

/// Removes what a proxy must not pass on from a response. `upgraded`: it is a 101 that was asked for.
pub fn strip_response(head: &mut ResponseHead, upgraded: bool) {
    let _ = (head, upgraded);
}
