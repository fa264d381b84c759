//! End-to-end tests: the real binary, real sockets, one module a story.

mod harness;
mod stories;
