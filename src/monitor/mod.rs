//! Monitors watch processes and publish what they see of them.
