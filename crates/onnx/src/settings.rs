//! How a model wants its texts, as Sentence Transformers keeps it beside the model. All of these files may be missing.
//!
//! | file | read of it |
//! |---|---|
//! | `modules.json` | whether anything follows the pooling that would change vectors |
//! | `1_Pooling/config.json` | the mean of the states, or the first one |
//! | `sentence_bert_config.json` | how many tokens a text may have |
//! | `config_sentence_transformers.json` | what is put before passages and queries |

use std::collections::BTreeMap;
use std::path::Path;

use plimsoll_ingest::Failure;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::files::{invalid, read_if_there};
use crate::pool::Pooling;

/// The largest of these files that is read.
const MAX_BYTES: u64 = 1 << 20;

/// How texts are treated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub pooling: Pooling,
    /// How many tokens a text has at most, special ones included, if that is said here.
    pub max_length: Option<usize>,
    /// What is put before passages.
    pub passage: String,
    /// What is put before queries.
    pub query: String,
}

#[derive(Deserialize)]
struct Module {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Bert {
    max_seq_length: Option<usize>,
    #[serde(default)]
    do_lower_case: bool,
}

#[derive(Deserialize)]
struct Transformers {
    #[serde(default)]
    prompts: BTreeMap<String, String>,
    default_prompt_name: Option<String>,
}

impl Settings {
    /// The settings of the model in a directory. `pools` says whether the states of tokens are to be pooled, or the
    /// network gives vectors itself.
    ///
    /// # Errors
    /// A file can not be read or is not understood, or asks for something that is not supported.
    pub(crate) fn read(directory: &Path, pools: bool) -> Result<Self, Failure> {
        let mut settings =
            Self { pooling: Pooling::Mean, max_length: None, passage: String::new(), query: String::new() };
        if pools {
            check_modules(&directory.join("modules.json"))?;
            settings.pooling = pooling(&directory.join("1_Pooling/config.json"))?;
        }
        let path = directory.join("sentence_bert_config.json");
        if let Some(bert) = json::<Bert>(&path)? {
            if bert.do_lower_case {
                return Err(invalid(&path, "asks for do_lower_case, which is not supported"));
            }
            settings.max_length = bert.max_seq_length;
        }
        if let Some(transformers) =
            json::<Transformers>(&directory.join("config_sentence_transformers.json"))?
        {
            let default = transformers.default_prompt_name.unwrap_or_default();
            let prompt = |names: &[&str]| {
                let mut names = names.iter().copied().chain([&default[..]]);
                names.find_map(|name| transformers.prompts.get(name)).cloned().unwrap_or_default()
            };
            settings.passage = prompt(&["document", "passage", "corpus"]);
            settings.query = prompt(&["query"]);
        }
        Ok(settings)
    }

    /// What decides vectors, as a part of what the model is known by; `max_length` is the one in use.
    pub(crate) fn fingerprint(&self, max_length: usize) -> String {
        serde_json::json!([self.pooling.name(), max_length, self.passage, self.query]).to_string()
    }
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Failure> {
    let Some(bytes) = read_if_there(path, MAX_BYTES)? else { return Ok(None) };
    let parsed = serde_json::from_slice(&bytes);
    parsed.map(Some).map_err(|error| invalid(path, &format!("is not understood: {error}")))
}

fn check_modules(path: &Path) -> Result<(), Failure> {
    for module in json::<Vec<Module>>(path)?.unwrap_or_default() {
        let name = module.kind.rsplit('.').next().unwrap_or_default();
        if !["Transformer", "Pooling", "Normalize"].contains(&name) {
            return Err(invalid(path, &format!("asks for the module {name:?}, which is not supported")));
        }
    }
    Ok(())
}

fn pooling(path: &Path) -> Result<Pooling, Failure> {
    const MEAN: &str = "pooling_mode_mean_tokens";
    const FIRST: &str = "pooling_mode_cls_token";
    let Some(config) = json::<BTreeMap<String, serde_json::Value>>(path)? else { return Ok(Pooling::Mean) };
    let is_set = |(name, value): &(&String, &serde_json::Value)| {
        name.starts_with("pooling_mode_") && value.as_bool() == Some(true)
    };
    let modes: Vec<&str> = config.iter().filter(is_set).map(|(name, _)| name.as_str()).collect();
    if config.get("include_prompt").and_then(serde_json::Value::as_bool) == Some(false) {
        return Err(invalid(path, "asks for include_prompt = false, which is not supported"));
    }
    match (&modes[..], config.get("pooling_mode").and_then(serde_json::Value::as_str)) {
        ([MEAN], None) | ([], Some("mean")) => Ok(Pooling::Mean),
        ([FIRST], None) | ([], Some("cls")) => Ok(Pooling::First),
        _ => Err(invalid(path, "asks for a pooling that is neither the mean nor the first token")),
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_ingest::FailureClass;

    use super::*;

    /// The settings in a directory of these files.
    fn settings(files: &[(&str, &str)]) -> Result<Settings, Failure> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("1_Pooling")).unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        Settings::read(directory.path(), true)
    }

    #[test]
    fn what_is_not_said_is_the_mean_of_all_tokens_without_prompts() {
        let none =
            Settings { pooling: Pooling::Mean, max_length: None, passage: "".into(), query: "".into() };
        assert_eq!(settings(&[]), Ok(none.clone()));
        let minilm = [
            (
                "modules.json",
                r#"[{"idx": 0, "type": "sentence_transformers.models.Transformer"},
                    {"idx": 1, "type": "sentence_transformers.models.Pooling"},
                    {"idx": 2, "type": "sentence_transformers.models.Normalize"}]"#,
            ),
            (
                "1_Pooling/config.json",
                r#"{"word_embedding_dimension": 384, "pooling_mode_cls_token": false,
                    "pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": false}"#,
            ),
            ("config_sentence_transformers.json", r#"{"__version__": {"pytorch": "2"}}"#),
        ];
        assert_eq!(settings(&minilm), Ok(none));
    }

    #[test]
    fn the_files_decide_pooling_length_and_prompts() {
        let read = settings(&[
            (
                "1_Pooling/config.json",
                r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#,
            ),
            ("sentence_bert_config.json", r#"{"max_seq_length": 256, "do_lower_case": false}"#),
            (
                "config_sentence_transformers.json",
                r#"{"prompts": {"query": "query: ", "passage": "passage: "}, "default_prompt_name": null}"#,
            ),
        ]);
        let expected = Settings {
            pooling: Pooling::First,
            max_length: Some(256),
            passage: "passage: ".into(),
            query: "query: ".into(),
        };
        assert_eq!(read, Ok(expected));
        let read = settings(&[(
            "config_sentence_transformers.json",
            r#"{"prompts": {"query": "", "all": "text: "}, "default_prompt_name": "all"}"#,
        )])
        .unwrap();
        assert_eq!((&read.passage[..], &read.query[..]), ("text: ", ""));
    }

    #[test]
    fn what_would_change_vectors_and_is_not_supported_is_refused() {
        for (name, text) in [
            ("modules.json", r#"[{"type": "sentence_transformers.models.Dense"}]"#),
            ("1_Pooling/config.json", r#"{"pooling_mode_max_tokens": true}"#),
            (
                "1_Pooling/config.json",
                r#"{"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true}"#,
            ),
            ("1_Pooling/config.json", r#"{"pooling_mode": "lasttoken"}"#),
            ("1_Pooling/config.json", r#"{"pooling_mode_mean_tokens": true, "include_prompt": false}"#),
            ("sentence_bert_config.json", r#"{"max_seq_length": 256, "do_lower_case": true}"#),
            ("sentence_bert_config.json", r#"{"max_seq_length": -1}"#),
            ("config_sentence_transformers.json", "["),
        ] {
            let failure = settings(&[(name, text)]).unwrap_err();
            assert_eq!(failure.class, FailureClass::Validation, "{text}");
            assert!(failure.message.contains(name), "{failure}");
        }
    }
}
