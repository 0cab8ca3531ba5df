//! Grows with the first feature.
