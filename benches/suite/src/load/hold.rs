//! Connections that have served a request and are held idle.

use super::Request;
use super::client::Client;
use anyhow::{Context, Result};

/// Held connections; all close when dropped.
#[derive(Debug, Default)]
pub(crate) struct Held(Vec<Client>);

impl Held {
    /// Opens connections until `count` are held; each asks once.
    pub(crate) fn grow(&mut self, request: &Request, count: usize) -> Result<()> {
        while self.0.len() < count {
            let mut client = Client::connect(request.port)?;
            client.ask(request).with_context(|| format!("connection {}", self.0.len()))?;
            client.rest();
            self.0.push(client);
        }
        Ok(())
    }
}
