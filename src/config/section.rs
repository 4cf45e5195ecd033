//! Reads one map of the file key by key, and reports every key that is missing, wrong or unknown.
//!
//! Pure. `check` asks a [`Section`] for each key of the format; what it never asked for is unknown,
//! so no list of keys has to be kept beside the code. Every getter answers `None` for a key that is
//! absent, empty (`key:` alone) or faulty, and a faulty one has been reported by then.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::value::{Dict, Value};

use super::fault::{Faults, Spot, element, quoted, suggestion, under};
use super::file::{described, whole_number};

/// The longest duration of the format: ten years.
pub const TEN_YEARS: f64 = 315_360_000.0;
/// The kernel's bound on one argument or variable (MAX_ARG_STRLEN, less its NUL).
const LONGEST_TEXT: usize = 131_071;
/// PATH_MAX, less its NUL.
const LONGEST_PATH: usize = 4095;

/// A value and where it stands.
#[derive(Clone)]
pub struct Item<'a> {
    /// What was written.
    pub value: &'a Value,
    /// Its path in the file.
    pub path: String,
    faults: &'a Faults,
}

/// A map of the file, read key by key.
pub struct Section<'a> {
    dict: &'a Dict,
    path: String,
    faults: &'a Faults,
    asked: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// The section at `path`.
    pub fn new(dict: &'a Dict, path: String, faults: &'a Faults) -> Self {
        Self { dict, path, faults, asked: Vec::new() }
    }

    /// The value of `key`, whatever its kind.
    pub fn item(&mut self, key: &'static str) -> Option<Item<'a>> {
        self.asked.push(key);
        let value = self.dict.get(key).filter(|value| !matches!(value, Value::Empty(..)))?;
        Some(Item { value, path: under(&self.path, key), faults: self.faults })
    }

    /// The same, and its absence is a fault.
    pub fn required(&mut self, key: &'static str) -> Option<Item<'a>> {
        let item = self.item(key);
        if item.is_none() {
            self.fault(format!("the key `{key}` is missing"));
        }
        item
    }

    /// Reports the section as a whole.
    pub fn fault(&self, message: impl Into<String>) {
        self.faults.add(self.path.clone(), Spot::Value, message);
    }

    /// Reports the value of `key`.
    pub fn fault_at(&self, key: &str, message: impl Into<String>) {
        self.faults.add(under(&self.path, key), Spot::Value, message);
    }

    /// Whether a value is written for `key`.
    pub fn has(&self, key: &str) -> bool {
        self.dict.get(key).is_some_and(|value| !matches!(value, Value::Empty(..)))
    }

    /// `true` or `false`.
    pub fn flag(&mut self, key: &'static str) -> Option<bool> {
        self.item(key)?.flag()
    }

    /// A text.
    pub fn text(&mut self, key: &'static str) -> Option<String> {
        self.item(key)?.text()
    }

    /// An absolute path.
    pub fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        self.item(key)?.absolute_path()
    }

    /// A whole number within `range`.
    pub fn integer(&mut self, key: &'static str, range: RangeInclusive<i64>) -> Option<i64> {
        self.item(key)?.integer(range)
    }

    /// A number within `range`.
    pub fn number(&mut self, key: &'static str, range: RangeInclusive<f64>) -> Option<f64> {
        self.item(key)?.number(range)
    }

    /// Seconds within `range`, fractions allowed.
    pub fn seconds(&mut self, key: &'static str, range: RangeInclusive<f64>) -> Option<Duration> {
        self.number(key, range).map(Duration::from_secs_f64)
    }

    /// One of these words.
    pub fn choice<T: Clone>(&mut self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        self.item(key)?.choice(words)
    }

    /// A map with its own keys.
    pub fn section(&mut self, key: &'static str) -> Option<Section<'a>> {
        self.item(key)?.section()
    }

    /// A list.
    pub fn list(&mut self, key: &'static str) -> Option<Vec<Item<'a>>> {
        self.item(key)?.list()
    }

    /// Reports every key that nobody asked for.
    pub fn finish(self) {
        for key in self.dict.keys().filter(|key| !self.asked.contains(&key.as_str())) {
            let message = format!(
                "unknown key {}{}",
                quoted(key),
                suggestion(key, self.asked.iter().copied())
            );
            self.faults.add(under(&self.path, key), Spot::Key, message);
        }
    }
}

impl<'a> Item<'a> {
    /// Reports this value.
    pub fn fault(&self, message: impl Into<String>) {
        self.faults.add(self.path.clone(), Spot::Value, message);
    }

    /// Reports that another kind of value is expected.
    pub fn expected<T>(&self, what: &str) -> Option<T> {
        self.fault(format!("{what} is expected, not {}", described(self.value)));
        None
    }

    /// `true` or `false`.
    pub fn flag(&self) -> Option<bool> {
        match self.value {
            Value::Bool(_, flag) => Some(*flag),
            _ => self.expected("true or false"),
        }
    }

    /// A text, not longer than the kernel takes and without NUL.
    pub fn text(&self) -> Option<String> {
        match self.value {
            Value::String(_, text) if text.contains('\0') => {
                self.fault("must not contain a NUL character");
                None
            }
            Value::String(_, text) if text.len() > LONGEST_TEXT => {
                self.fault(format!("is {} bytes long, at most {LONGEST_TEXT} fit", text.len()));
                None
            }
            Value::String(_, text) => Some(text.clone()),
            Value::Bool(..) | Value::Num(..) => {
                self.fault(format!(
                    "a text is expected, not {}: put it in quotes",
                    described(self.value)
                ));
                None
            }
            _ => self.expected("a text"),
        }
    }

    /// A text with something in it.
    pub fn word(&self) -> Option<String> {
        let text = self.text()?;
        if text.is_empty() {
            self.fault("must not be empty");
            return None;
        }
        Some(text)
    }

    /// A path that starts at the root.
    pub fn absolute_path(&self) -> Option<PathBuf> {
        let text = self.word()?;
        if !Path::new(&text).is_absolute() {
            self.fault(format!("must be an absolute path, {} is not", quoted(&text)));
            return None;
        }
        if text.len() > LONGEST_PATH {
            self.fault(format!("is {} bytes long, a path has at most {LONGEST_PATH}", text.len()));
            return None;
        }
        Some(text.into())
    }

    /// A whole number within `range`.
    pub fn integer(&self, range: RangeInclusive<i64>) -> Option<i64> {
        let Some(number) = whole_number(self.value) else {
            return self.expected("a whole number");
        };
        i64::try_from(number).ok().filter(|number| range.contains(number)).or_else(|| {
            self.fault(format!("must be from {} to {}, not {number}", range.start(), range.end()));
            None
        })
    }

    /// A number within `range`.
    pub fn number(&self, range: RangeInclusive<f64>) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "no range reaches where digits are lost")]
        let whole = whole_number(self.value).map(|number| number as f64);
        let Some(number) = whole.or_else(|| self.value.to_f64()) else {
            return self.expected("a number");
        };
        if range.contains(&number) {
            return Some(number);
        }
        let (least, most) = range.into_inner();
        let written = described(self.value);
        self.fault(if number <= 0.0 && least > 0.0 {
            format!("must be greater than 0: from {least} to {most}, not {written}")
        } else {
            format!("must be from {least} to {most}, not {written}")
        });
        None
    }

    /// One of these words.
    pub fn choice<T: Clone>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        let known = || words.iter().map(|(word, _)| *word);
        words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| meaning.clone()).or_else(
            || {
                let all = known().collect::<Vec<_>>().join(", ");
                let close = suggestion(&text, known());
                self.fault(format!("{} is not one of {all}{close}", quoted(&text)));
                None
            },
        )
    }

    /// A map with its own keys.
    pub fn section(&self) -> Option<Section<'a>> {
        match self.value {
            Value::Dict(_, dict) => Some(Section::new(dict, self.path.clone(), self.faults)),
            _ => self.expected("a map"),
        }
    }

    /// A list.
    pub fn list(&self) -> Option<Vec<Item<'a>>> {
        match self.value {
            Value::Array(_, values) => Some(
                values
                    .iter()
                    .enumerate()
                    .map(|(index, value)| Item {
                        value,
                        path: element(&self.path, index),
                        faults: self.faults,
                    })
                    .collect(),
            ),
            _ => self.expected("a list"),
        }
    }

    /// A list of texts.
    pub fn texts(&self) -> Option<Vec<String>> {
        let items = self.list()?;
        let texts: Vec<String> = items.iter().filter_map(Item::text).collect();
        (texts.len() == items.len()).then_some(texts)
    }

    /// A map from the operator's own keys to texts; `wrong` says what is wrong with a key.
    pub fn map_of_texts(
        &self,
        wrong: fn(&str) -> Option<&str>,
    ) -> Option<BTreeMap<String, String>> {
        let Value::Dict(_, dict) = self.value else { return self.expected("a map") };
        let mut texts = BTreeMap::new();
        for (key, value) in dict {
            let item = Item { value, path: under(&self.path, key), faults: self.faults };
            if let Some(wrong) = wrong(key) {
                self.faults.add(item.path, Spot::Key, wrong);
            } else if let Some(text) = item.text() {
                texts.insert(key.clone(), text);
            }
        }
        (texts.len() == dict.len()).then_some(texts)
    }
}
