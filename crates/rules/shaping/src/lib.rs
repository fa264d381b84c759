//! What a site tolerates: exact windows, permits.
