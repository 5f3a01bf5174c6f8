//! plimsoll-wal
