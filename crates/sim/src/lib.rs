//! plimsoll-sim
