//! What a node and a gateway say to each other: the messages of `proto/uplink.proto`, generated.
//!
//! `uplink_client` is the node's side of the call, `uplink_server` (with feature `gateway`) the other.

pub use self::generated::*;

mod generated {
    #![expect(
        clippy::pedantic,
        clippy::allow_attributes_without_reason,
        unused_qualifications,
        reason = "made by prost and tonic"
    )]
    tonic::include_proto!("tracer.uplink.v1");
}

/// Of this protocol; `Hello.version`.
pub const VERSION: u32 = 1;

/// What one container adds to `Heartbeat.state_hash`.
#[must_use]
pub fn state_hash(instance: &str, version: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64(format!("{instance} {version}").as_bytes())
}
