//! The stories.

mod relay;
