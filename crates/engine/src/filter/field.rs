//! The fields that filters name.

/// A field of the metadata: a name, or a path of names into nested maps.
///
/// A text is split at its dots: `"author.name"` is the field `name` in the map `author`. For names that hold dots there
/// is [`Field::named`].
///
/// ```
/// use plimsoll_engine::{Field, Filter};
/// assert_eq!(Filter::exists("author.name").to_string(), "author.name exists");
/// assert_eq!(Filter::exists(Field::named("v1.0").within("name")).to_string(), "`v1.0`.name exists");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// At least one.
    names: Vec<String>,
}

impl Field {
    /// The field of exactly this name, dots and all.
    pub fn named(name: impl Into<String>) -> Self {
        Self { names: vec![name.into()] }
    }

    /// The field of exactly this name in the map that is in this field.
    #[must_use]
    pub fn within(mut self, name: impl Into<String>) -> Self {
        self.names.push(name.into());
        self
    }

    /// The names from the outermost map to the innermost.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }
}

impl From<&str> for Field {
    fn from(path: &str) -> Self {
        Self { names: path.split('.').map(ToOwned::to_owned).collect() }
    }
}

impl From<String> for Field {
    fn from(path: String) -> Self {
        Self::from(&path[..])
    }
}
