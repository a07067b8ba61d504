//! What end-to-end tests and the demo run things with: real stores, real Envoy, our own binaries, and a
//! scriptable upstream. Everything picks its own ports and folders and dies with its owner.

pub mod ads;
pub mod certs;
pub mod client;
pub mod collector;
pub mod control;
pub mod dns;
pub mod envoy;
pub mod eventually;
pub mod faulty;
pub mod grpc;
pub mod h2wire;
pub mod https;
pub mod load;
pub mod pair;
pub mod patient;
pub mod pki;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod rls;
pub mod secure;
pub mod store;
pub mod tcp;
pub mod upstream;
pub mod wire;

pub use eventually::eventually;
