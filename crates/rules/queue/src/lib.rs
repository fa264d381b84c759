//! What is due, for whom, in which order.
