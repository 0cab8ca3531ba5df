//! The gate, without any input or output.
