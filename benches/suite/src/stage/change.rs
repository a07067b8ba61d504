//! A file that moves into place while the proxy runs, and the first answer that shows it.

use crate::config::backend::Answer;
use crate::load::Request;
use crate::load::client::Client;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest wait for a change.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between one question and the next.
const PAUSE: Duration = Duration::from_millis(1);

/// A text that is written, and not yet where it is read.
#[derive(Debug)]
pub(super) struct Draft {
    draft: PathBuf,
    file: PathBuf,
}

impl Draft {
    /// `number` tells drafts of the same file apart.
    pub(super) fn write(file: &Path, number: usize, text: &str) -> Result<Self> {
        let draft = file.with_extension(format!("{number}.next"));
        std::fs::write(&draft, text)?;
        Ok(Self { draft, file: file.to_owned() })
    }

    /// Moves it there in one step.
    pub(super) fn publish(self) -> Result<()> {
        std::fs::rename(&self.draft, &self.file).with_context(|| format!("moving {}", self.file.display()))
    }

    /// The same; from the move to the first answer of the backend that the text leads to.
    pub(super) fn until_answered(self, request: &Request, wanted: Answer) -> Result<Duration> {
        let mut client = Client::connect(request.port)?;
        client.ask(request)?;
        let start = Instant::now();
        self.publish()?;
        loop {
            // While one table takes the other's place a request may fail on a connection that is closing.
            let body = match client.ask(request) {
                Ok(body) => body,
                Err(_) => {
                    client = Client::connect(request.port)?;
                    continue;
                }
            };
            if Answer::of(&body) == wanted {
                return Ok(start.elapsed());
            }
            ensure!(start.elapsed() < PATIENCE, "the change of a file has no effect");
            std::thread::sleep(PAUSE);
        }
    }
}
