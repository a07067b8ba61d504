//! The audit log: who did what, when, to which object, and what came of it. JSON lines in a file, and `tracing`.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::SystemTime;

use parking_lot::Mutex;
use serde_json::json;
use tracing::{error, info};

use super::Caller;

/// What came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// The caller may not.
    Denied,
    /// What was asked for was refused.
    Refused,
    /// It failed: the store is away.
    Failed,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Denied => "denied",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// One line.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Who.
    pub caller: &'a Caller,
    /// What, such as `apply`.
    pub action: &'a str,
    /// To what: `KIND/NAME`.
    pub objects: &'a [String],
    /// What came of it.
    pub outcome: Outcome,
    /// Why not; empty when it was done.
    pub reason: &'a str,
}

/// Where lines go.
#[derive(Debug, Default)]
pub struct Audit {
    file: Option<Mutex<File>>,
}

impl Audit {
    /// Appends to a file, which is made when it is not there, for its owner alone.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let file = File::options().append(true).create(true).mode(0o600).open(path)?;
        Ok(Self { file: Some(Mutex::new(file)) })
    }

    /// Writes a line. A line that cannot be written is told in the log, and the call goes on.
    pub fn record(&self, entry: &Entry<'_>, now: SystemTime) {
        let Entry { caller, action, objects, outcome, reason } = entry;
        let (who, role, outcome) = (&*caller.name, caller.role.to_string(), outcome.as_str());
        let peer = caller.peer.map(|p| p.to_string()).unwrap_or_default();
        info!(target: "portolan::audit", who, role, peer, action, ?objects, outcome, reason, "audit");
        let Some(file) = &self.file else { return };
        let mut line = json!({
            "time": rfc3339(now), "who": who, "role": role, "peer": peer,
            "action": action, "objects": objects, "outcome": outcome,
        });
        if !reason.is_empty() {
            line["reason"] = json!(reason);
        }
        if !caller.certificate.is_empty() {
            line["certificate"] = json!(&*caller.certificate);
        }
        // Calls that write are few; one write is one line, also with several processes on one file.
        if let Err(reason) = file.lock().write_all(format!("{line}\n").as_bytes()) {
            error!(%reason, "audit log not written");
            metrics::counter!("audit_write_failures_total").increment(1);
        }
    }
}

fn rfc3339(now: SystemTime) -> String {
    use time::format_description::well_known::Rfc3339;
    time::OffsetDateTime::from(now).format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_who_did_what_when_and_what_came_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit");
        let audit = Audit::open(&path).unwrap();
        let caller = Caller::anonymous(Some("127.0.0.1:9".parse().unwrap()));
        let objects = ["Secret/a".to_owned()];
        let entry = Entry {
            caller: &caller,
            action: "apply",
            objects: &objects,
            outcome: Outcome::Refused,
            reason: "no",
        };
        audit.record(&entry, SystemTime::UNIX_EPOCH);
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            json!({"time": "1970-01-01T00:00:00Z", "who": "anonymous", "role": "admin", "peer": "127.0.0.1:9",
                "action": "apply", "objects": ["Secret/a"], "outcome": "refused", "reason": "no"})
        );
    }
}
