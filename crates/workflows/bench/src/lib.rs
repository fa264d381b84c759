//! The load generator and the sink.
