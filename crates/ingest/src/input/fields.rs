//! The fields of a line that is a JSON object, read in one pass whatever kind of line it is.

use std::borrow::Cow;
use std::fmt;

use plimsoll::limits::MAX_METADATA_BYTES;
use plimsoll::{Key, Metadata};
use plimsoll_lines::{Components, PostingField, parse_key, parse_metadata, set_once};
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// How long the JSON text of metadata may be: 1 MiB as it is stored, of which each byte may be escaped, and some space
/// between. Longer ones are not even read, because many small values take sixteen times the memory of their text.
const MAX_METADATA_JSON: usize = 8 * MAX_METADATA_BYTES;

/// How long a control record may be. It is kept with the run, as an entry, in which each of its bytes may be escaped.
const MAX_CHANGESET_JSON: usize = 120 << 10;

/// What a line has. Of fields that may be `null`, that is the same as not to be there.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub id: Option<Key>,
    pub op: Option<Option<String>>,
    pub text: Option<Option<String>>,
    pub metadata: Option<Metadata>,
    pub vector: Option<Components>,
    pub postings: Option<Vec<PostingField>>,
    pub line: Option<Option<u64>>,
    pub path: Option<Option<String>>,
    pub repo: Option<Option<String>>,
    pub content: Option<Option<String>>,
    pub content_base64: Option<Option<String>>,
    pub content_ref: Option<Option<String>>,
    pub size: Option<Option<u64>>,
    pub mime: Option<Option<String>>,
    pub skip_index: Option<Option<bool>>,
    /// The JSON text of the object.
    pub new_changeset: Option<String>,
    /// The first field that no kind of line has.
    pub unknown: Option<String>,
}

impl Fields {
    /// The first field there that a row of import does not have.
    pub(super) fn foreign_to_rows(&self) -> Option<&str> {
        let fields = [
            ("path", self.path.is_some()),
            ("line", self.line.is_some()),
            ("repo", self.repo.is_some()),
            ("content", self.content.is_some()),
            ("content_base64", self.content_base64.is_some()),
            ("content_ref", self.content_ref.is_some()),
            ("size", self.size.is_some()),
            ("mime", self.mime.is_some()),
            ("skip_index", self.skip_index.is_some()),
        ];
        let found = fields.iter().find(|(_, is_there)| *is_there).map(|(name, _)| *name);
        found.or(self.unknown.as_deref())
    }

    /// The first field there that only a row of import has.
    pub(super) fn foreign_to_changes(&self) -> Option<&'static str> {
        let fields = [
            ("id", self.id.is_some()),
            ("text", self.text.is_some()),
            ("metadata", self.metadata.is_some()),
            ("vector", self.vector.is_some()),
            ("postings", self.postings.is_some()),
        ];
        fields.iter().find(|(_, is_there)| *is_there).map(|(name, _)| *name)
    }

    fn read<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "id" => {
                let json: &RawValue = map.next_value()?;
                set_once(&mut self.id, name, parse_key(json.get()).map_err(A::Error::custom)?)
            }
            "op" => set_once(&mut self.op, name, value(name, map)?),
            "text" => set_once(&mut self.text, name, value(name, map)?),
            "metadata" => {
                let json: &RawValue = map.next_value()?;
                bounded(name, json, MAX_METADATA_JSON)?;
                set_once(&mut self.metadata, name, parse_metadata(json.get()).map_err(A::Error::custom)?)
            }
            "vector" => set_once(&mut self.vector, name, map.next_value()?),
            "postings" => set_once(&mut self.postings, name, map.next_value()?),
            "line" => set_once(&mut self.line, name, value(name, map)?),
            "path" => set_once(&mut self.path, name, value(name, map)?),
            "repo" => set_once(&mut self.repo, name, value(name, map)?),
            "content" => set_once(&mut self.content, name, value(name, map)?),
            "content_base64" => set_once(&mut self.content_base64, name, value(name, map)?),
            "content_ref" => set_once(&mut self.content_ref, name, value(name, map)?),
            "size" => set_once(&mut self.size, name, value(name, map)?),
            "mime" => set_once(&mut self.mime, name, value(name, map)?),
            "skip_index" => set_once(&mut self.skip_index, name, value(name, map)?),
            "new_changeset" => {
                let json: &RawValue = map.next_value()?;
                bounded(name, json, MAX_CHANGESET_JSON)?;
                if !json.get().starts_with('{') {
                    return Err(A::Error::custom("the new_changeset is not an object"));
                }
                set_once(&mut self.new_changeset, name, json.get().to_owned())
            }
            _ => {
                self.unknown.get_or_insert_with(|| name.to_owned());
                map.next_value::<IgnoredAny>().map(drop)
            }
        }
    }
}

fn bounded<E: Error>(name: &str, json: &RawValue, limit: usize) -> Result<(), E> {
    let length = json.get().len();
    if length <= limit {
        return Ok(());
    }
    Err(E::custom(format_args!("the {name} has {length} bytes as JSON; at most {limit} are allowed")))
}

/// The value of a field, with an error that names the field.
fn value<'de, T: Deserialize<'de>, A: MapAccess<'de>>(name: &str, map: &mut A) -> Result<T, A::Error> {
    map.next_value().map_err(|error| A::Error::custom(format_args!("in the field {name:?}, {error}")))
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with an id or a path")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields::default();
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            fields.read(&name, &mut map)?;
        }
        Ok(fields)
    }
}
