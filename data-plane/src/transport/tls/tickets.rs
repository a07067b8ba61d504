//! Session tickets: sealed with keys of our own or with configured ones, and bound to what they were given under.
//!
//! A ticket holds the client's certificates, so that resuming skips judging them. It must not outlive the rules
//! they were judged by: the rules' digest is authenticated with every ticket (BoringSSL has the session id context
//! for this).

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use data_plane_core::config::TicketKeys;
use parking_lot::Mutex;
use rustls::server::ProducesTickets;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const NAME: usize = 16;
const NONCE: usize = 12;
const TIME: usize = 8;
/// How long the process's own keys seal new tickets.
const OWN_KEY_LIFE: Duration = Duration::from_secs(12 * 60 * 60);
/// BoringSSL's default life of sessions.
pub(super) const SESSION_LIFE: Duration = Duration::from_secs(2 * 60 * 60);

struct Key {
    name: [u8; NAME],
    seal: LessSafeKey,
}

/// The process's own keys of one listener: the current and the one before.
pub(super) struct OwnKeys(Mutex<(Instant, Vec<Arc<Key>>)>);

impl fmt::Debug for OwnKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnKeys")
    }
}

impl OwnKeys {
    pub(super) fn new() -> Self {
        Self(Mutex::new((Instant::now(), fresh().into_iter().collect())))
    }

    fn keys(&self) -> Vec<Arc<Key>> {
        let mut held = self.0.lock();
        if held.0.elapsed() >= OWN_KEY_LIFE
            && let Some(key) = fresh()
        {
            held.0 = Instant::now();
            held.1.insert(0, key);
            held.1.truncate(2);
        }
        held.1.clone()
    }
}

fn fresh() -> Option<Arc<Key>> {
    let mut bytes = [0; 48];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    key(&bytes[..NAME], &bytes[NAME..])
}

fn key(name: &[u8], secret: &[u8]) -> Option<Arc<Key>> {
    let seal = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, secret).ok()?);
    Some(Arc::new(Key { name: name.try_into().ok()?, seal }))
}

enum Keys {
    Own(Arc<OwnKeys>),
    Shared(Vec<Arc<Key>>),
}

/// Makes and opens tickets.
pub(super) struct Ticketer {
    keys: Keys,
    life: Duration,
    /// Digest of what sessions depend on.
    bound_to: [u8; 32],
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticketer").field("life", &self.life).finish_non_exhaustive()
    }
}

impl Ticketer {
    pub(super) fn own(keys: Arc<OwnKeys>, life: Duration, bound_to: [u8; 32]) -> Self {
        Self { keys: Keys::Own(keys), life, bound_to }
    }

    /// With configured keys: 16 bytes of name, then 64 of key material (Envoy splits them for its two algorithms; we
    /// derive one key of them).
    pub(super) fn shared(keys: &TicketKeys, life: Duration, bound_to: [u8; 32]) -> Result<Self, String> {
        let keys: Option<Vec<_>> = keys
            .0
            .iter()
            .map(|bytes| {
                let (name, material) = bytes.expose().split_at_checked(NAME)?;
                key(name, &super::material::sha256(material))
            })
            .collect();
        let keys = keys.filter(|keys| !keys.is_empty()).ok_or("session_ticket_keys: keys have 80 bytes")?;
        Ok(Self { keys: Keys::Shared(keys), life, bound_to })
    }

    fn keys(&self) -> Vec<Arc<Key>> {
        match &self.keys {
            Keys::Own(own) => own.keys(),
            Keys::Shared(keys) => keys.clone(),
        }
    }

    /// What is authenticated besides the content.
    fn context(&self, name: &[u8], time: &[u8]) -> Vec<u8> {
        [name, time, &self.bound_to].concat()
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        // RFC 8446, section 4.6.1: a week at most.
        u32::try_from(self.life.as_secs()).unwrap_or(u32::MAX).min(7 * 24 * 60 * 60)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let keys = self.keys();
        let key = keys.first()?;
        let mut nonce = [0; NONCE];
        aws_lc_rs::rand::fill(&mut nonce).ok()?;
        let time = now().to_be_bytes();
        let mut sealed = plain.to_vec();
        let aad = Aad::from(self.context(&key.name, &time));
        key.seal.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed).ok()?;
        Some([key.name.as_slice(), &time, &nonce, &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME)?;
        let (time, rest) = rest.split_at_checked(TIME)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE)?;
        let keys = self.keys();
        let key = keys.iter().find(|key| key.name == name)?;
        let made = u64::from_be_bytes(time.try_into().ok()?);
        if now().saturating_sub(made) > self.life.as_secs() {
            return None;
        }
        let mut plain = sealed.to_vec();
        let aad = Aad::from(self.context(name, time));
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let length = key.seal.open_in_place(nonce, aad, &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_plane_core::config::Sensitive;

    #[test]
    fn a_ticket_opens_where_keys_and_rules_are_the_same() {
        let keys = TicketKeys(vec![Sensitive::new([7; 80].as_slice().into())]);
        let one = Ticketer::shared(&keys, SESSION_LIFE, [1; 32]).unwrap();
        let ticket = one.encrypt(b"session").unwrap();
        assert_eq!(one.decrypt(&ticket).unwrap(), b"session");
        let twin = Ticketer::shared(&keys, SESSION_LIFE, [1; 32]).unwrap();
        assert_eq!(twin.decrypt(&ticket).unwrap(), b"session", "another process with the same keys");
        let other_rules = Ticketer::shared(&keys, SESSION_LIFE, [2; 32]).unwrap();
        assert_eq!(other_rules.decrypt(&ticket), None, "rules changed: the client is judged again");
        let own = Ticketer::own(Arc::new(OwnKeys::new()), SESSION_LIFE, [1; 32]);
        assert_eq!(own.decrypt(&ticket), None);
        let mut damaged = ticket;
        damaged[20] ^= 1;
        assert_eq!(one.decrypt(&damaged), None, "its time is authenticated");
    }
}
