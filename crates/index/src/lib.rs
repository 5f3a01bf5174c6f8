//! plimsoll-index
