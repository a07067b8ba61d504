//! Composition root: threads, wiring, start order, signals, draining.
//!
//! Called by `main` and by tests; several proxies can live in one process, since nothing here is static. One
//! control thread runs xDS, DNS, file watching and the admin server; N worker threads serve connections.

mod boot;
mod handle;
mod options;

pub use boot::{Boot, BootError, Origin};
pub use handle::{Handle, ListenerInfo};
pub use options::{DrainStrategy, Options};

/// Why a proxy does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The bootstrap cannot be read or is wrong.
    #[error("configuration is not valid")]
    Boot(#[from] BootError),
    /// A static listener cannot be built or bound.
    #[error("listener {name:?}: {reason}")]
    Listener {
        /// Its name.
        name: String,
        /// Why, in words.
        reason: String,
    },
    /// The admin server cannot listen.
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
        let _ = (boot, options);
        Err(StartError::System { what: "being built", source: std::io::ErrorKind::Unsupported.into() })
    }
}
