//! Between nodes and a gateway: real processes, and a network that fails on purpose.
//!
//! ```text
//!  synthetic-node ─▶ proxy (cuts, stalls, drips, refuses) ─▶ meddler (twice, late) ─▶ tracer gateway
//!   │ journal: the truth                                                                │ log, API
//!   └───────────────────────────────────▶ compare ◀────────────────────────────────────┘
//! ```

pub mod chance;
pub mod clock;
pub mod gateway;
pub mod http;
pub mod meddler;
pub mod node;
pub mod plan;
pub mod proxy;
pub mod run;
pub mod trust;
pub mod verdict;
pub mod wire;
pub mod witness;
