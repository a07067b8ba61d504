//! Protos to config.
