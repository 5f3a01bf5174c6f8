//! How the distance between two vectors is measured.

use std::fmt;
use std::str::FromStr;

/// How the distance between two vectors is measured. Smaller is nearer for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Metric {
    /// 1 − cos(a, b), in 0 to 2. A zero vector has no direction and is refused.
    #[default]
    Cosine = 1,
    /// The Euclidean distance, the square root of the sum of squared differences.
    L2 = 2,
    /// The negated inner product.
    Dot = 3,
}

impl Metric {
    /// The metric's number on disk.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The metric with this number on disk, if there is one.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Cosine),
            2 => Some(Self::L2),
            3 => Some(Self::Dot),
            _ => None,
        }
    }

    /// The name used on the command line and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cosine => "cosine",
            Self::L2 => "l2",
            Self::Dot => "dot",
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Metric {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        [Self::Cosine, Self::L2, Self::Dot]
            .into_iter()
            .find(|metric| metric.name() == name)
            .ok_or_else(|| format!("unknown metric {name:?}; use cosine, l2 or dot"))
    }
}
