//! The receivers' internet, simulated.
