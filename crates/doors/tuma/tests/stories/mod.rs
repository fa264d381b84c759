//! The stories.

mod attacks;
mod chain;
mod config;
mod dev;
mod entrance;
mod explain;
mod floods;
mod kill;
mod notices;
mod orders;
mod peers;
mod records;
mod relay;
mod remote;
mod retry;
mod shutdown;
mod smuggling;
mod sources;
mod spool;
mod submission;
mod tags;
