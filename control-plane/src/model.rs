//! What the control plane knows: instances, objects, and the world they make.
//!
//! Pure: no I/O, no clock. Sources produce [`Event`]s, [`apply`] folds them into a [`World`] and says what
//! changed. Knows nothing of xDS: `translate` reads the world.

pub mod check;
pub mod guard;
mod id;
mod instance;
mod object;
mod problem;
mod world;

pub use check::addresses_clash;
pub use id::{
    InstanceId, InvalidKey, InvalidName, Kind, ObjectKey, ObjectName, ServiceName, SourceId, UnknownKind,
};
pub use instance::{Health, Instance, InvalidInstance, MAX_WEIGHT};
pub use object::{Content, Object, carries_bytes, is_for, listener_address, listener_name};
pub use problem::{Problem, Problems, Severity};
pub use world::{Change, Contribution, Event, Gone, Held, Sync, World, apply};
