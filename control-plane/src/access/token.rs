//! Tokens, and who presents them.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use xds_types::portolan::config::v1::{AccessToken, access_token};

use crate::model::Kind;
use crate::pipeline::View;
use crate::secret::vault::hex;

/// What every token begins with, so that one that was lost is found.
const PREFIX: &str = "ptl_";

/// What a caller may do. Each may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads.
    Viewer,
    /// Writes objects and instances.
    Operator,
    /// Makes tokens, and touches the built-in authority.
    Admin,
}

impl Role {
    /// As in the API.
    pub fn proto(self) -> access_token::Role {
        match self {
            Self::Viewer => access_token::Role::Viewer,
            Self::Operator => access_token::Role::Operator,
            Self::Admin => access_token::Role::Admin,
        }
    }

    /// Of the API; the least for what is unknown.
    pub fn of(role: i32) -> Self {
        match access_token::Role::try_from(role) {
            Ok(access_token::Role::Admin) => Self::Admin,
            Ok(access_token::Role::Operator) => Self::Operator,
            Ok(access_token::Role::Viewer) | Err(_) => Self::Viewer,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        })
    }
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// `token/NAME`, `bootstrap`, or `anonymous`.
    pub name: Arc<str>,
    /// What they may do.
    pub role: Role,
    /// Where they call from.
    pub peer: Option<SocketAddr>,
    /// Names in the certificate that they showed.
    pub certificate: Arc<[String]>,
}

impl Caller {
    /// Someone on the loopback where nobody is asked for a token.
    pub fn anonymous(peer: Option<SocketAddr>) -> Self {
        Self { name: "anonymous".into(), role: Role::Admin, peer, certificate: Arc::default() }
    }
}

/// Why a caller is not let in. Says nothing of tokens that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No token was presented.
    #[error("a token is needed: `authorization: Bearer TOKEN` (portolan --token, PORTOLAN_TOKEN)")]
    Missing,
    /// What was presented is not a token that is valid now.
    #[error("the token is not valid: unknown, revoked or expired")]
    Invalid,
}

/// Who is let in.
#[derive(Default)]
pub struct Access {
    /// SHA-256 of the bootstrap token.
    bootstrap: Option<String>,
    /// Tokens are asked for.
    required: bool,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("required", &self.required).finish_non_exhaustive()
    }
}

impl Access {
    /// With a bootstrap token, everyone needs one.
    pub fn new(bootstrap: Option<&str>) -> Self {
        Self { bootstrap: bootstrap.map(sha256), required: bootstrap.is_some() }
    }

    /// Whether tokens are asked for.
    pub fn is_required(&self) -> bool {
        self.required
    }

    /// Who presents an `authorization` header.
    ///
    /// # Errors
    /// None was presented, or it is not valid.
    pub fn identify(
        &self,
        authorization: Option<&[u8]>,
        peer: Option<SocketAddr>,
        view: &View,
        now: SystemTime,
    ) -> Result<Caller, Denied> {
        let caller =
            |name: String, role| Caller { name: name.into(), role, peer, certificate: Arc::default() };
        let Some(authorization) = authorization else {
            return if self.required { Err(Denied::Missing) } else { Ok(Caller::anonymous(peer)) };
        };
        let text = std::str::from_utf8(authorization).map_err(|_| Denied::Invalid)?;
        let (scheme, token) = text.split_once(' ').ok_or(Denied::Invalid)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Denied::Invalid);
        }
        // Hashes are compared, so that time tells nothing of a token.
        let hash = sha256(token.trim());
        if self.bootstrap.as_ref() == Some(&hash) {
            return Ok(caller("bootstrap".to_owned(), Role::Admin));
        }
        let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
        let tokens = view.objects.in_force().filter(|o| o.key.kind == Kind::AccessToken);
        let found = tokens.filter_map(|o| Some((&o.key.name, o.token()?))).find(|(_, t)| t.sha256 == hash);
        match found {
            Some((name, t)) if t.expires.as_ref().is_none_or(|at| at.seconds > now) => {
                Ok(caller(format!("token/{name}"), Role::of(t.role)))
            }
            _ => Err(Denied::Invalid),
        }
    }
}

fn sha256(token: &str) -> String {
    hex(digest(&SHA256, token.as_bytes()).as_ref())
}

/// A token just made: the only place where it is in the clear.
pub struct NewToken {
    /// To be shown once.
    pub token: String,
    /// To be stored.
    pub stored: AccessToken,
}

/// A new token.
pub fn new_token(role: Role, by: &str, now: SystemTime, expires: Option<SystemTime>) -> NewToken {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).expect("INVARIANT: the system gives random bytes");
    let token = format!("{PREFIX}{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes));
    let at = |time: SystemTime| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        xds_types::google::protobuf::Timestamp { seconds: since.as_secs() as i64, nanos: 0 }
    };
    let stored = AccessToken {
        role: role.proto().into(),
        sha256: sha256(&token),
        created: Some(at(now)),
        created_by: by.to_owned(),
        expires: expires.map(at),
    };
    NewToken { token, stored }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Event, Held, Object, SourceId, World, apply};
    use crate::translate::{Objects, Trust, settle};
    use std::time::Duration;
    use xds_types::portolan::config::v1::{Resource, resource::Spec};

    fn view(tokens: &[(&str, AccessToken)]) -> View {
        let one = |(name, token): &(&str, AccessToken)| {
            let spec = Some(Spec::Token(token.clone()));
            Object::new(Resource { name: (*name).to_owned(), spec, ..Resource::default() }, 1).unwrap()
        };
        let held = Held { objects: tokens.iter().map(one).collect(), ..Held::default() };
        let source = SourceId::new(0, "embedded");
        let (world, change) = apply(World::new([source.clone()]), Event::Resync { source, held });
        let objects = settle(&Objects::default(), &world, &change.objects, &Trust::default());
        View { world, objects, ..View::default() }
    }

    #[test]
    fn a_token_is_its_owner_until_it_expires_and_others_are_nobody() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let ends = now + Duration::from_secs(10);
        let made = new_token(Role::Operator, "bootstrap", now, Some(ends));
        let view = view(&[("ci", made.stored.clone())]);
        let access = Access::new(Some("root"));
        let ask = |header: Option<&str>, at| {
            access.identify(header.map(str::as_bytes), None, &view, at).map(|c| (c.name.to_string(), c.role))
        };
        let bearer = format!("Bearer {}", made.token);
        assert_eq!(ask(Some(&bearer), now), Ok(("token/ci".into(), Role::Operator)));
        assert_eq!(ask(Some(&bearer), ends), Err(Denied::Invalid));
        assert_eq!(ask(Some("bearer root"), now), Ok(("bootstrap".into(), Role::Admin)));
        assert_eq!(ask(None, now), Err(Denied::Missing));
        for bad in ["Bearer", "Bearer x", "Basic root", "", &made.stored.sha256, &format!("{bearer}x")] {
            assert_eq!(ask(Some(bad), now), Err(Denied::Invalid), "{bad}");
        }
        let open = Access::new(None);
        assert_eq!(open.identify(None, None, &view, now).unwrap().role, Role::Admin);
        assert_eq!(open.identify(Some(b"Bearer x"), None, &view, now), Err(Denied::Invalid));
    }

    #[test]
    fn what_is_stored_of_a_token_is_not_the_token() {
        let made = new_token(Role::Viewer, "me", SystemTime::UNIX_EPOCH, None);
        assert!(made.token.starts_with(PREFIX) && made.token.len() > 40);
        assert!(!format!("{:?}", made.stored).contains(&made.token));
        assert_ne!(new_token(Role::Viewer, "me", SystemTime::UNIX_EPOCH, None).token, made.token);
    }
}
