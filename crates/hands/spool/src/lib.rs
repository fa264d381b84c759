//! Accepted messages on disk until the last recipient is settled.
