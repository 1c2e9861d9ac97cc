//! The containers' network: a namespace each, the bridge, and the files that name hosts.

pub(crate) mod bridge;
pub(crate) mod files;
