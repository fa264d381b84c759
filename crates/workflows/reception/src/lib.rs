//! From a connection to a durable message.
