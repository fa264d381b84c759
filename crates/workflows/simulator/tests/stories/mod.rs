//! One module a story.

mod adaptive;
mod backoff;
mod clock;
mod dns;
mod fairness;
mod limits;
mod same;
mod warmup;
