//! What a reload of the configuration means for a session under way.

use std::sync::Arc;

use super::Session;

impl Session {
    /// Follows a reload: between segments, while no connection is held.
    pub(super) fn follow_reload(&mut self) {
        let clusters = self.clusters.load();
        let current = clusters
            .iter()
            .find(|cluster| cluster.config.name == self.cluster.config.name);
        let Some(current) = current else { return };
        if Arc::ptr_eq(current, &self.cluster) {
            return;
        }
        let has_same_pools = Arc::ptr_eq(&current.pools, &self.cluster.pools);
        // The parked connection leads to a node of the old list.
        if self.parked.is_some() && !has_same_pools {
            return;
        }
        if !has_same_pools {
            self.home = None;
        }
        self.cluster = Arc::clone(current);
        self.policies = Arc::clone(current.config.policies_for(&self.user.name));
        self.catalog = current.world.catalogs.of(&self.key.database);
        self.learned = current.shared.learned(&self.key.database);
        self.recent.clear();
    }
}
