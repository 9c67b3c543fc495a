//! Every bound of the throw-away clusters, with its unit; the proxy's own are in [`crate::limits`].

use std::time::Duration;

/// How long a throw-away server may take to accept connections, to stop or to catch up.
pub const STEP: Duration = Duration::from_secs(30);

/// How often the state of a throw-away server is looked at while something is awaited.
pub const POLL: Duration = Duration::from_millis(5);

/// How often a throw-away server is given another port when its port was taken meanwhile.
pub const PORT_TRIES: usize = 5;

/// The most replicas a throw-away cluster may have; `max_wal_senders` of its nodes allows for more.
pub const REPLICAS: usize = 16;
