//! Read and write buffers, borrowed from a per-thread pool while a connection is busy.
