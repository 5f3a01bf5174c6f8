//! The properties that a database keeps, through its public face. One program, so that it is linked once.

mod crash_workloads;
mod faults_everywhere;
mod faults_poison;
mod model_random;
mod smoke;
mod support;
