//! Where records go. Each sink has a bound and says what it lost when that was not enough.

pub mod socket;
pub mod stdout;
