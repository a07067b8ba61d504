//! A whole proxy in this process: static configuration, files, control planes, admin, life and death.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod ads;
mod binary;
mod files;
mod lifecycle;
mod static_config;
mod support;
