//! Monitors watch processes and publish what they see of them.
use crate::bus::Bus;
use crate::config::Config;
use std::sync::Arc;
/// x
pub struct Monitors;
impl Monitors {
    /// x
    pub fn start(_bus: Bus) -> anyhow::Result<Self> {
        Ok(Self)
    }
    /// x
    pub async fn reload(&self, _c: Arc<Config>) -> anyhow::Result<()> {
        Ok(())
    }
    /// x
    pub async fn stop(self) {}
}
