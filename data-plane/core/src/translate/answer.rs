//! Routes that answer by themselves: redirects and direct responses.

use super::route::Scope;
use super::{data, field, format, matcher};
use crate::config::{DirectResponse, Redirect, RedirectPath};
use crate::path::{Diagnostics, Path, Rejected};
use xds_types::envoy::config::route::v3 as proto;
use xds_types::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};

/// Answering with a redirect.
pub(super) fn redirect(
    proto: proto::RedirectAction,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<Redirect, Rejected> {
    let proto::RedirectAction {
        host_redirect,
        port_redirect,
        response_code,
        strip_query,
        scheme_rewrite_specifier,
        path_rewrite_specifier,
    } = proto;
    let path = match path_rewrite_specifier {
        Some(PathRewriteSpecifier::PathRedirect(path)) => Some(RedirectPath::Full(path.into())),
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => Some(RedirectPath::Prefix(prefix.into())),
        Some(PathRewriteSpecifier::RegexRewrite(proto)) => {
            let (regex, substitution) = matcher::substitution(proto, &at.field("regex_rewrite"), d)?;
            Some(RedirectPath::Regex(regex, substitution))
        }
        Some(PathRewriteSpecifier::PathRewrite(_)) => {
            return Err(d.reject(&at.field("path_rewrite"), "formatted paths are not supported"));
        }
        None => None,
    };
    Ok(Redirect {
        scheme: match scheme_rewrite_specifier {
            Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".into()),
            Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => Some(scheme.into()),
            Some(SchemeRewriteSpecifier::HttpsRedirect(false)) | None => None,
        },
        host: Some(host_redirect).filter(|h| !h.is_empty()).map(Into::into),
        port: match port_redirect {
            0 => None,
            port => Some(field::port(port, 0, &at.field("port_redirect"), d)?),
        },
        path,
        status: match field::variant(response_code, &at.field("response_code"), d)? {
            RedirectResponseCode::MovedPermanently => 301,
            RedirectResponseCode::Found => 302,
            RedirectResponseCode::SeeOther => 303,
            RedirectResponseCode::TemporaryRedirect => 307,
            RedirectResponseCode::PermanentRedirect => 308,
        },
        strip_query,
    })
}

/// Answering as written.
pub(super) fn direct(
    proto: proto::DirectResponseAction,
    at: &Path<'_>,
    d: &mut Diagnostics,
    scope: Scope<'_>,
) -> Result<DirectResponse, Rejected> {
    let proto::DirectResponseAction { status, body, body_format } = proto;
    let status_at = at.field("status");
    let status = match u16::try_from(status) {
        Ok(code @ 200..=599) => code,
        _ => return Err(d.reject(&status_at, format_args!("{status} is not a status, must be 200 to 599"))),
    };
    let body_at = at.field("body");
    let body = match body {
        Some(source) => data::bytes(source, &body_at, d, scope.options)?,
        None => Vec::new(),
    };
    if body.len() > scope.max_body_bytes as usize {
        let message = format!("has {} bytes, more than the {} allowed", body.len(), scope.max_body_bytes);
        return Err(d.reject(&body_at, message));
    }
    let body_format = match body_format {
        Some(proto) => Some(format::of_body(proto, &at.field("body_format"), d, scope.options)?),
        None => None,
    };
    Ok(DirectResponse { status, body: body.into(), body_format })
}
