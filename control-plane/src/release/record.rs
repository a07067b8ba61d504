//! One release, and its form in a store: JSON, with the texts of the objects compressed.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use serde::{Deserialize, Serialize};

use crate::model::ObjectKey;

/// Most bytes of texts that are read out of one record: more than any store takes of objects in a transaction.
const MAX_TEXTS: u64 = 64 << 20;

/// What made a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Objects were applied.
    Apply,
    /// An object was deleted.
    Delete,
    /// Releases were undone, back to [`Record::of`].
    Rollback,
    /// Secrets were encrypted anew. They hold what they held, so that nothing of it is ever undone.
    Reseal,
    /// Objects were made active for the node group [`Record::group`]. Those of all others stayed.
    Stage,
    /// The stage [`Record::of`] became active for all.
    Promote,
    /// The stage [`Record::of`] was given up.
    Abort,
    /// The stage [`Record::of`] returned by itself, for the reason in [`Record::message`].
    Withdraw,
}

/// What an object was before or after a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Option<String>", into = "Option<String>")]
pub enum Text {
    /// There was none.
    Absent,
    /// It had been written past the API and could not be read. Cannot be brought back.
    Unreadable,
    /// Its JSON, secrets encrypted.
    Is(String),
}

impl From<Option<String>> for Text {
    fn from(text: Option<String>) -> Self {
        match text {
            None => Self::Absent,
            Some(text) if text.is_empty() => Self::Unreadable,
            Some(text) => Self::Is(text),
        }
    }
}

impl From<Text> for Option<String> {
    fn from(text: Text) -> Self {
        match text {
            Text::Absent => None,
            Text::Unreadable => Some(String::new()),
            Text::Is(text) => Some(text),
        }
    }
}

/// What a release did to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// There was none.
    Created,
    /// It became another.
    Updated,
    /// It is gone.
    Deleted,
}

/// One object of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub object: ObjectKey,
    /// What the store held when it was changed.
    pub before: Text,
    /// What was written.
    pub after: Text,
}

impl Change {
    /// What was done to it.
    pub fn outcome(&self) -> Outcome {
        match (&self.before, &self.after) {
            (_, Text::Absent) => Outcome::Deleted,
            (Text::Absent, _) => Outcome::Created,
            _ => Outcome::Updated,
        }
    }
}

/// A release. Its number is in its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When, to the millisecond.
    pub at: SystemTime,
    /// Who: `token/NAME`, `bootstrap` or `anonymous`.
    pub by: String,
    /// Why, as who did it said.
    pub message: String,
    /// What made it.
    pub action: Action,
    /// The release that it is about, where there is one.
    pub of: Option<u64>,
    /// The node group that it is about, where there is one.
    pub group: Option<String>,
    /// What it did, in order of kind and name.
    pub changes: Vec<Change>,
}

/// A record in a store is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record of a release is not understood: {0}")]
pub struct Malformed(String);

impl Malformed {
    fn new(reason: impl fmt::Display) -> Self {
        Self(reason.to_string())
    }
}

#[derive(Serialize, Deserialize)]
struct Stored {
    at_ms: u64,
    by: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    message: String,
    action: Action,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    of: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    changes: Vec<StoredChange>,
    /// Before and after of each change: a JSON list of pairs, by deflate, in base64.
    texts: String,
}

#[derive(Serialize, Deserialize)]
struct StoredChange {
    object: String,
    outcome: Outcome,
}

impl Record {
    /// As it is stored.
    pub fn encode(&self) -> String {
        let Self { at, by, message, action, of, group, changes } = self;
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let texts: Vec<(&Text, &Text)> = changes.iter().map(|c| (&c.before, &c.after)).collect();
        let texts = serde_json::to_vec(&texts).expect("INVARIANT: texts are JSON");
        let told = |c: &Change| StoredChange { object: c.object.to_string(), outcome: c.outcome() };
        let stored = Stored {
            at_ms: since.as_millis() as u64,
            by: by.clone(),
            message: message.clone(),
            action: *action,
            of: *of,
            group: group.clone(),
            changes: changes.iter().map(told).collect(),
            texts: STANDARD.encode(deflate(&texts)),
        };
        serde_json::to_string(&stored).expect("INVARIANT: strings and numbers are JSON")
    }

    /// Out of a store.
    ///
    /// # Errors
    /// It was not written by [`Record::encode`].
    pub fn decode(text: &str) -> Result<Self, Malformed> {
        let Stored { at_ms, by, message, action, of, group, changes, texts } =
            serde_json::from_str(text).map_err(Malformed::new)?;
        let texts = inflate(&STANDARD.decode(texts).map_err(Malformed::new)?).map_err(Malformed::new)?;
        let texts: Vec<(Text, Text)> = serde_json::from_slice(&texts).map_err(Malformed::new)?;
        if texts.len() != changes.len() {
            return Err(Malformed::new("it has not as many texts as changes"));
        }
        let one = |(told, (before, after)): (StoredChange, (Text, Text))| {
            Ok(Change { object: told.object.parse().map_err(Malformed::new)?, before, after })
        };
        Ok(Self {
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(at_ms),
            by,
            message,
            action,
            of,
            group,
            changes: changes.into_iter().zip(texts).map(one).collect::<Result<_, Malformed>>()?,
        })
    }
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written.expect("INVARIANT: memory takes what is written")
}

fn inflate(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let read = DeflateDecoder::new(bytes).take(MAX_TEXTS + 1).read_to_end(&mut out)?;
    if read as u64 > MAX_TEXTS {
        return Err(std::io::Error::other(format!("its texts are larger than {MAX_TEXTS} bytes")));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Kind, ObjectName};

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new(Kind::Route, ObjectName::new(name).unwrap())
    }

    fn record() -> Record {
        let long = format!(r#"{{"kind":"Route","name":"c","x":"{}"}}"#, "abc ".repeat(10_000));
        let change = |name: &str, before: Text, after: Text| Change { object: key(name), before, after };
        Record {
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
            by: "token/ci".to_owned(),
            message: "why \"not\"".to_owned(),
            action: Action::Rollback,
            of: Some(3),
            group: None,
            changes: vec![
                change("a", Text::Absent, Text::Is("{}".to_owned())),
                change("b", Text::Unreadable, Text::Absent),
                change("c", Text::Is(long.clone()), Text::Is(long)),
            ],
        }
    }

    #[test]
    fn a_record_reads_back_and_large_texts_are_small_in_it() {
        let record = record();
        let text = record.encode();
        assert_eq!(Record::decode(&text).unwrap(), record);
        assert!(text.len() < 2_000, "80 kB of texts take {} bytes", text.len());
        assert!(text.contains(r#"{"object":"Route/b","outcome":"deleted"}"#), "people can read it: {text}");
    }

    #[test]
    fn what_is_not_a_record_is_refused_with_a_reason() {
        let good = record().encode();
        for (text, reason) in [
            ("{".to_owned(), "EOF"),
            (good.replace("rollback", "rewind"), "unknown variant"),
            (good.replace("Route/b", "Router/b"), "unknown kind"),
            (good.replace("\"Route/b\"", "\"b\""), "not KIND/NAME"),
            (good.replace(r#"{"object":"Route/b","outcome":"deleted"},"#, ""), "as many texts"),
        ] {
            let error = Record::decode(&text).unwrap_err().to_string();
            assert!(error.contains(reason), "{reason}: {error}");
        }
    }

    #[test]
    fn texts_that_grow_beyond_all_bounds_are_refused() {
        let bomb = deflate(&vec![b' '; MAX_TEXTS as usize + 1]);
        assert!(inflate(&bomb).unwrap_err().to_string().contains("larger"));
    }
}
