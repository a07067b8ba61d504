//! The keys that secrets are encrypted with at rest: AES-256-GCM, a random nonce for each sealing, the object's name
//! authenticated beside it, so that a sealed secret cannot be given another's name.

use std::fmt;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest;
use base64::Engine as _;
use prost::Message as _;
use xds_types::portolan::config::v1::{Sealed, Secret};

/// Bytes of a key.
pub const KEY_LENGTH: usize = 32;

/// Why a secret was not sealed or opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// No key is configured.
    #[error(
        "no key to encrypt secrets with: start every control plane with the same --secret-key-file \
         (`openssl rand -base64 32` makes one)"
    )]
    NoKey,
    /// It was encrypted with a key that is not configured.
    #[error("is encrypted with key {0}, which is not configured (--secret-key-file)")]
    UnknownKey(String),
    /// The bytes are not what was sealed under this name.
    #[error("cannot be decrypted: it was changed, or sealed under another name")]
    Damaged,
}

/// A key is not one.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not 32 bytes.
    #[error("must be {KEY_LENGTH} bytes in base64 or hex, one key a line, the one that encrypts first")]
    Malformed,
    /// The file.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

struct Key {
    id: String,
    key: LessSafeKey,
}

/// The configured keys. Never printed.
#[derive(Default)]
pub struct Vault {
    /// The first encrypts; all decrypt.
    keys: Vec<Key>,
    /// Of this process alone: for what comes in the clear from files, and is not written anywhere.
    own: Option<Key>,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|k| &k.id)).finish()
    }
}

impl Key {
    fn new(bytes: &[u8; KEY_LENGTH]) -> Self {
        let hash = digest::digest(&digest::SHA256, bytes);
        let id = hex(&hash.as_ref()[..8]);
        let key = UnboundKey::new(&AES_256_GCM, bytes).expect("INVARIANT: the length is AES-256's");
        Self { id, key: LessSafeKey::new(key) }
    }

    fn random() -> [u8; KEY_LENGTH] {
        let mut bytes = [0; KEY_LENGTH];
        aws_lc_rs::rand::fill(&mut bytes).expect("INVARIANT: the system gives random bytes");
        bytes
    }

    fn seal(&self, name: &str, secret: &Secret) -> Sealed {
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).expect("INVARIANT: the system gives random bytes");
        let mut bytes = secret.encode_to_vec();
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad(name)), &mut bytes)
            .expect("INVARIANT: a secret is shorter than GCM's limit");
        Sealed { key_id: self.id.clone(), nonce: nonce.to_vec(), ciphertext: bytes, ..Sealed::default() }
    }
}

fn aad(name: &str) -> Vec<u8> {
    format!("portolan/v1/secret/{name}").into_bytes()
}

/// Lowercase hex.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

fn read_key(text: &str) -> Option<[u8; KEY_LENGTH]> {
    let text = text.trim();
    if text.len() == 2 * KEY_LENGTH && text.is_ascii() {
        let bytes: Option<Vec<u8>> =
            (0..KEY_LENGTH).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()).collect();
        if let Some(bytes) = bytes {
            return bytes.try_into().ok();
        }
    }
    base64::engine::general_purpose::STANDARD.decode(text).ok()?.try_into().ok()
}

impl Vault {
    /// A vault without a key that lasts: it opens nothing from stores and seals nothing for them.
    pub fn empty() -> Self {
        Self { keys: Vec::new(), own: Some(Key::new(&Key::random())) }
    }

    /// A vault with keys as text, one a line, the one that encrypts first.
    ///
    /// # Errors
    /// A line is not a key, or there is none.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
        let keys: Option<Vec<Key>> = lines.map(|l| Some(Key::new(&read_key(l)?))).collect();
        match keys {
            Some(keys) if !keys.is_empty() => Ok(Self { keys, ..Self::empty() }),
            _ => Err(KeyError::Malformed),
        }
    }

    /// A vault with the key in a file, which is made when it is not there.
    ///
    /// # Errors
    /// The file cannot be read or made, or holds no key.
    pub fn at(path: &Path) -> Result<Self, KeyError> {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let text = base64::engine::general_purpose::STANDARD.encode(Key::random()) + "\n";
                let mut file =
                    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
                file.write_all(text.as_bytes())?;
                file.sync_all()?;
                Self::parse(&text)
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Whether what it seals can be opened after a restart.
    pub fn lasts(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Name of the key that encrypts.
    pub fn key_id(&self) -> Option<&str> {
        self.keys.first().map(|k| k.id.as_str())
    }

    /// Encrypts a secret under its name.
    ///
    /// # Errors
    /// No key is configured.
    pub fn seal(&self, name: &str, secret: &Secret) -> Result<Sealed, VaultError> {
        self.keys.first().map(|k| k.seal(name, secret)).ok_or(VaultError::NoKey)
    }

    /// A vault that seals by a key of this process alone, and opens what the other opens too: for what files hold
    /// in the clear anyway.
    pub fn seal_for_now(&self, name: &str, secret: &Secret) -> Result<Sealed, VaultError> {
        self.own.as_ref().map(|k| k.seal(name, secret)).ok_or(VaultError::NoKey)
    }

    /// Decrypts what was sealed under this name.
    ///
    /// # Errors
    /// The key is not configured, or the bytes are not what was sealed.
    pub fn open(&self, name: &str, sealed: &Sealed) -> Result<Secret, VaultError> {
        let key = self
            .keys
            .iter()
            .chain(&self.own)
            .find(|k| k.id == sealed.key_id)
            .ok_or_else(|| VaultError::UnknownKey(sealed.key_id.clone()))?;
        let nonce: [u8; NONCE_LEN] = sealed.nonce.as_slice().try_into().map_err(|_| VaultError::Damaged)?;
        let mut bytes = sealed.ciphertext.clone();
        let plain = key
            .key
            .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad(name)), &mut bytes)
            .map_err(|_| VaultError::Damaged)?;
        let secret = Secret::decode(&*plain).map_err(|_| VaultError::Damaged);
        plain.fill(0);
        secret
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xds_types::portolan::config::v1::{Value, secret::From};

    const ONE: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    const TWO: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn secret() -> Secret {
        Secret { from: Some(From::Value(Value { text: "planted".into() })), ..Secret::default() }
    }

    #[test]
    fn what_is_sealed_opens_under_its_name_only_and_says_nothing() {
        let vault = Vault::parse(ONE).unwrap();
        let sealed = vault.seal("a", &secret()).unwrap();
        assert!(!format!("{sealed:?}").contains("planted"));
        assert!(!sealed.ciphertext.windows(7).any(|w| w == b"planted"));
        assert_eq!(vault.open("a", &sealed), Ok(secret()));
        assert_eq!(vault.open("b", &sealed), Err(VaultError::Damaged));
        for i in 0..sealed.ciphertext.len() {
            let mut changed = sealed.clone();
            changed.ciphertext[i] ^= 1;
            assert_eq!(vault.open("a", &changed), Err(VaultError::Damaged), "byte {i}");
        }
        assert_ne!(vault.seal("a", &secret()).unwrap().nonce, sealed.nonce);
    }

    #[test]
    fn keys_are_rotated_by_writing_the_new_one_first() {
        let old = Vault::parse(ONE).unwrap();
        let sealed = old.seal("a", &secret()).unwrap();
        let both = Vault::parse(&format!("# new\n{TWO}\n\n{ONE}\n")).unwrap();
        assert_eq!(both.open("a", &sealed), Ok(secret()));
        let again = both.seal("a", &secret()).unwrap();
        assert_ne!(again.key_id, sealed.key_id);
        assert_eq!(old.open("a", &again), Err(VaultError::UnknownKey(again.key_id.clone())));
    }

    #[test]
    fn without_a_key_nothing_is_sealed_for_stores_and_the_reason_is_said() {
        let vault = Vault::empty();
        assert!(vault.seal("a", &secret()).unwrap_err().to_string().contains("--secret-key-file"));
        let own = vault.seal_for_now("a", &secret()).unwrap();
        assert_eq!(vault.open("a", &own), Ok(secret()));
        assert!(Vault::empty().open("a", &own).is_err(), "another process has another key");
    }

    #[test]
    fn keys_that_are_none_are_refused_and_a_missing_file_is_made() {
        for bad in ["", "#", "short", "MDEy", &TWO[2..], &format!("{ONE}\nx")] {
            assert!(Vault::parse(bad).is_err(), "{bad:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let made = Vault::at(&path).unwrap();
        let sealed = made.seal("a", &secret()).unwrap();
        assert_eq!(Vault::at(&path).unwrap().open("a", &sealed), Ok(secret()));
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn keys_never_show() {
        let shown = format!("{:?}", Vault::parse(ONE).unwrap());
        assert!(!shown.contains("0123456789"), "{shown}");
    }
}
