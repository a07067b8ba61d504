//! A whole proxy in this process: static configuration, files, control planes, admin, life and death.

mod ads;
mod files;
mod lifecycle;
mod static_config;
mod support;
