//! The stories.

mod kill;
mod relay;
mod remote;
mod shutdown;
mod smuggling;
