//! Our own control plane, as a process.
