//! Which listener has which address, and how sockets go from one to another.

use super::manager::Error;
use super::sockets::{Plan, Sockets};
use data_plane_core::config;
use std::sync::Arc;

/// Whether addresses are bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// They are.
    Bound,
    /// Only what the configuration says of them is looked at.
    Imagined,
}

/// What a prepared listener will accept on, while it is prepared.
pub(super) struct Claim {
    pub(super) name: Box<str>,
    pub(super) sockets: Vec<Arc<Sockets>>,
}

impl Claim {
    pub(super) fn holds(&self, sockets: &Arc<Sockets>) -> bool {
        self.sockets.iter().any(|own| Arc::ptr_eq(own, sockets))
    }
}

/// Listeners that are about to go or to change, in one update: what they are bound to may be taken over, each
/// address once.
#[derive(Default)]
pub struct Leaving {
    held: Vec<(Box<str>, Arc<Sockets>)>,
    given: Vec<Arc<Sockets>>,
}

impl std::fmt::Debug for Leaving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leaving").finish_non_exhaustive()
    }
}

impl Leaving {
    pub(super) fn add(&mut self, name: &str, sockets: &Arc<Sockets>) {
        self.held.push((name.into(), Arc::clone(sockets)));
    }

    /// Whether `name` leaves these sockets to whoever wants them.
    fn gives(&self, name: &str, sockets: &Arc<Sockets>) -> bool {
        let held = self.held.iter().any(|(owner, held)| **owner == *name && Arc::ptr_eq(held, sockets));
        held && !self.given.iter().any(|given| Arc::ptr_eq(given, sockets))
    }

    /// A listener of the update has these now.
    pub(super) fn gave(&mut self, sockets: &[Arc<Sockets>]) {
        self.given.extend(sockets.iter().cloned());
    }
}

/// Sockets for the addresses of a listener. `bound`: what each listener has, active or prepared.
pub(super) fn bind(
    config: &config::Listener,
    bound: &[(&str, &Arc<Sockets>)],
    leaving: &Leaving,
    workers: usize,
    ports: Ports,
) -> Result<Vec<Arc<Sockets>>, Error> {
    let mut taken: Vec<Arc<Sockets>> = Vec::new();
    for (index, &address) in config.addresses.iter().enumerate() {
        let duplicate = |other: &str| Error::DuplicateAddress { address, other: other.into() };
        let is_fixed = address.port() != 0;
        if is_fixed {
            if config.addresses[..index].contains(&address) {
                return Err(duplicate(&config.name));
            }
            let other = bound.iter().find(|(name, sockets)| {
                **name != *config.name && sockets.address == address && !leaving.gives(name, sockets)
            });
            if let Some((other, _)) = other {
                return Err(duplicate(other));
            }
        }
        let plan = Plan { address, reuse_port: config.reuse_port, backlog: config.tcp_backlog_size };
        let may_have = |name: &str, sockets: &Arc<Sockets>| {
            // Who asks for any port gets one of its own.
            *name == *config.name || (is_fixed && leaving.gives(name, sockets))
        };
        let shared_otherwise = |(name, sockets): &(&str, &Arc<Sockets>)| {
            sockets.plan.reuse_port != plan.reuse_port
                && sockets.address == address
                && may_have(name, sockets)
        };
        if is_fixed && bound.iter().any(shared_otherwise) {
            return Err(Error::ReusePort { address });
        }
        let serves = |sockets: &Arc<Sockets>| sockets.plan.serves(&plan);
        let mut free = bound.iter().filter(|(name, sockets)| serves(sockets) && may_have(name, sockets));
        let free = free.find(|(_, sockets)| !taken.iter().any(|taken| Arc::ptr_eq(taken, sockets)));
        taken.push(match (free, ports) {
            (Some((_, sockets)), _) => Arc::clone(sockets),
            (None, Ports::Bound) => {
                Arc::new(Sockets::bind(plan, workers).map_err(|reason| Error::Bind { address, reason })?)
            }
            (None, Ports::Imagined) => Arc::new(Sockets::imagined(plan)),
        });
    }
    Ok(taken)
}
