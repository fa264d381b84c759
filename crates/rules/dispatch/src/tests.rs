//! The machine against a world written in the test.
