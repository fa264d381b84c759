//! The stories.

mod attacks;
mod chain;
mod clock;
mod config;
mod crowds;
mod dev;
mod dns;
mod entrance;
mod explain;
mod floods;
mod http;
mod kill;
mod notices;
mod orders;
mod peers;
mod receivers;
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
