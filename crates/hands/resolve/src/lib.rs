//! DNS, MX to addresses.
