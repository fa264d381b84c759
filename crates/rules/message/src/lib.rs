//! Header fields, Received, writing and reading DSN.
