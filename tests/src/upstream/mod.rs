//! Between nodes and a gateway: real processes, and a network that fails on purpose.
//!
//! ```text
//!  synthetic-node ──▶ proxy (cuts, stalls, drips, refuses) ──▶ tracer gateway
//!   │ journal: the truth                                        │ HTTP API
//!   └──────────────────────▶ compare ◀──────────────────────────┘
//! ```

pub mod chance;
pub mod gateway;
pub mod http;
pub mod node;
pub mod plan;
pub mod proxy;
pub mod run;
pub mod verdict;
