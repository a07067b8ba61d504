//! Who may call the API, and what each did: tokens, roles, and the audit log.
//!
//! A token is 32 random bytes; stores hold its SHA-256, as an AccessToken object. The bootstrap token, from a file or the
//! environment, is an admin that no store knows. Without either, and on the loopback, every caller is an admin.

mod audit;
mod token;

pub use audit::{Audit, Entry, Outcome};
pub use token::{Access, Caller, Denied, NewToken, Role, new_token};
