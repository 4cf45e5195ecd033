//! Bringing processes back.
pub mod plan;
