//! Listen, dial, TLS, PROXY protocol.
