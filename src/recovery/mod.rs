//! Bringing processes back.
pub mod plan;
#[cfg(test)]
mod tests;
