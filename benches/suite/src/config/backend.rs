//! The backend and the collector: nginx, so that they are quick and nobody's own.

use crate::config::{ENDPOINTS, nginx};
use anyhow::Result;
use std::path::Path;

/// Bytes of the usual answer.
pub(crate) const SMALL: usize = 1024;
/// Path and bytes of the large one.
pub(crate) const LARGE: (&str, usize) = ("/1m", 1 << 20);
/// What the second backend answers with.
pub(crate) const CHANGED: &str = "changed";

/// Which of the two backends answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Answer {
    Usual,
    /// [`CHANGED`].
    Changed,
}

impl Answer {
    pub(crate) fn of(body: &[u8]) -> Self {
        if body == CHANGED.as_bytes() { Self::Changed } else { Self::Usual }
    }
}

/// `main` answers 1 KiB to all, but 1 MiB to `/1m`; `other` says `changed`; `collector` takes what it is sent.
pub(crate) fn write(dir: &Path, main: u16, other: u16, collector: u16) -> Result<std::path::PathBuf> {
    let files = dir.join("files");
    std::fs::create_dir_all(&files)?;
    std::fs::write(files.join(&LARGE.0[1..]), vec![b'x'; LARGE.1])?;
    let body = "x".repeat(SMALL);
    let listens: String =
        (1..=ENDPOINTS).map(|i| format!("listen 127.0.0.{i}:{main} backlog=8192; ")).collect();
    let others: String = (1..=ENDPOINTS).map(|i| format!("listen 127.0.0.{i}:{other}; ")).collect();
    let text = format!(
        "{}
  client_max_body_size 4m; client_body_buffer_size 256k; default_type text/plain;
  server {{ {listens} root {}; location / {{ return 200 \"{body}\"; }} location = {} {{ }} }}
  server {{ {others} location / {{ return 200 \"{CHANGED}\"; }} }}
  server {{ listen 127.0.0.1:{collector}; location / {{ return 200 \"\"; }} }}
}}
",
        nginx::head(dir, "backend", 1),
        files.display(),
        LARGE.0,
    );
    let path = dir.join("backend.conf");
    std::fs::write(&path, text)?;
    Ok(path)
}
