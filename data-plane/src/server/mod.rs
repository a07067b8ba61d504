//! Composition root: threads, wiring, start order, signals, draining.
//!
//! Called by `main` and by tests; several proxies can live in one process, since nothing here is static. One
//! control thread runs xDS, DNS, file watching and the admin server; N worker threads serve connections.
//!
//! Start order: admin server, static clusters and bound static listeners (either failing ends the start), workers,
//! then as [`crate::xds`] says: static clusters warm, clusters are asked for and warm, listeners are asked for and
//! accept.

mod boot;
mod certs;
mod check;
mod control;
mod data;
mod deps;
mod dump;
mod gauges;
mod handle;
pub mod logging;
mod options;
mod signals;
mod sinks;
mod threads;
mod view;

pub use boot::{Boot, BootError, Origin};
pub use handle::{Handle, ListenerInfo};
pub use logging::Logging;
pub use options::{DrainStrategy, Options};

pub use crate::xds::UnknownFields;

use crate::xds::StaticFailure;
use control::Start;
use std::fmt::Write;
use std::sync::mpsc::sync_channel;
use tokio::sync::mpsc;

/// Commands from outside that wait for the control thread. Full: the asker waits.
const COMMAND_QUEUE: usize = 16;

/// This build, as Envoy's `--version` writes it: `revision/version/status/build/tls`.
pub fn version() -> String {
    view::version()
}

/// Why a proxy does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The bootstrap cannot be read or is wrong.
    #[error("configuration is not valid")]
    Boot(#[from] BootError),
    /// Static listeners, clusters or secrets cannot be had: all of them.
    #[error("static resources cannot be had")]
    Static(Vec<StaticFailure>),
    /// The admin server cannot listen, or its address cannot be written down.
    #[error("admin address {address}")]
    Admin {
        /// The address asked for.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A runtime, thread, file or signal handler cannot be had.
    #[error("{what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl StartError {
    /// All reasons, a line each.
    pub fn describe(&self) -> String {
        let mut out = String::new();
        match self {
            Self::Boot(BootError(lines)) => out.push_str(&lines.join("\n")),
            Self::Static(failures) => {
                let lines: Vec<String> = failures.iter().map(ToString::to_string).collect();
                out.push_str(&lines.join("\n"));
            }
            Self::Admin { source, .. } | Self::System { source, .. } => {
                let _ = write!(out, "{self}: {source}");
            }
        }
        out
    }
}

/// A running proxy's beginning.
#[derive(Debug)]
pub struct Proxy;

impl Proxy {
    /// Starts a proxy in threads of its own. Returns once the admin server answers and static listeners are bound;
    /// [`Handle::ready`] says when it serves.
    ///
    /// # Errors
    /// Something that the bootstrap asks for at once cannot be had; nothing keeps running then.
    pub fn start(boot: Boot, options: Options) -> Result<Handle, StartError> {
        let system = |what| move |source| StartError::System { what, source };
        let runtime = threads::runtime;
        let (tell, commands) = mpsc::channel(COMMAND_QUEUE);
        let (started, answer) = sync_channel(1);
        let start = Start { boot, options, commands, started };
        let thread = std::thread::Builder::new()
            .name("main".into())
            .spawn(move || match runtime() {
                Ok(runtime) => runtime.block_on(control::run(start)),
                Err(source) => {
                    let error = StartError::System { what: "cannot start the control thread", source };
                    // The caller waits for this.
                    let _ = start.started.send(Err(error));
                    Ok(())
                }
            })
            .map_err(system("cannot start the control thread"))?;
        let lost = || StartError::System {
            what: "the control thread ended",
            source: std::io::ErrorKind::Other.into(),
        };
        let started = answer.recv().map_err(|_| lost())??;
        Ok(Handle::new(started, tell, thread))
    }
}
