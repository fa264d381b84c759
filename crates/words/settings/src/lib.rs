//! How a setting is declared: text, default, unit, bound and the place it came from.
