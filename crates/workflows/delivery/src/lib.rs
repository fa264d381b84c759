//! From due to settled.
