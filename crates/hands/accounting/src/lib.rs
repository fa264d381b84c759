//! One record per outcome: files and metrics.
