//! Rate limits over a fleet: the control plane's service with memory and real Redis, and policies that real Envoy
//! and our proxy enforce with it.

mod policy;
mod service;
