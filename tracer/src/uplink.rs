//! What a node and a gateway say to each other: the messages of `proto/uplink.proto`, generated.
//!
//! `uplink_client` is the node's side of the call, `uplink_server` (with feature `gateway`) the other.

use std::marker::PhantomData;

use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

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

/// Protobuf, with buffers that begin small: most messages are an ack or a heartbeat, and a gateway has
/// thousands of sessions. Tonic's own codec begins with 8 KiB for each direction of each.
#[derive(Debug, Clone)]
pub struct Frugal<T, U>(PhantomData<(T, U)>);

/// Bytes that a buffer begins with; it grows to what a message needs.
const BUFFER_BYTES: usize = 256;
/// Bytes of messages that are sent together: as tonic has it.
const TOGETHER_BYTES: usize = 32 << 10;

impl<T, U> Default for Frugal<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for Frugal<T, U>
where
    T: prost::Message + Send + 'static,
    U: prost::Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER_BYTES, TOGETHER_BYTES))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER_BYTES, TOGETHER_BYTES))
    }
}
