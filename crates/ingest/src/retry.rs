//! Trying again: how often, after how long, and when not to.
//!
//! **Owns** the policies per class of failure ([`Policies`]), the circuit breaker of a service ([`Breaker`]), and an
//! embedder that follows both ([`Patient`]). **Must not know** what is tried. **On a crash** all of it is forgotten,
//! which costs a few attempts; what must not be forgotten, the attempts of a failed item, is kept with the item.

mod breaker;
mod patient;
mod policy;

pub use breaker::{Breaker, Permit};
pub use patient::{Patient, Pause, Wait};
pub use policy::{Policies, Policy};
