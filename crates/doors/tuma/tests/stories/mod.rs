//! The stories.

mod attacks;
mod chain;
mod config;
mod dev;
mod entrance;
mod floods;
mod kill;
mod peers;
mod relay;
mod remote;
mod shutdown;
mod smuggling;
mod submission;
