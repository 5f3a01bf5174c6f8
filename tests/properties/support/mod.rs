//! What the tests share: random numbers that a seed repeats, the naive oracle, and disks.

pub(crate) mod generate;
pub(crate) mod hook;
pub(crate) mod model;
pub(crate) mod random;
pub(crate) mod replay;
