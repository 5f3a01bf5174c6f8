//! plimsoll-shard
