//! `config.yaml` as a tree of values: what YAML itself can get wrong, within bounds of time and memory.
//!
//! Pure. Called by `check`, which decides what the values mean. The text comes from `load`; where a
//! value stands in it is found by `marks`, and only when there is something to report.
//!
//! serde_yaml keeps the whole text as events before it gives a value, takes quadratic time for deep
//! nesting and expands aliases almost without a bound; figment's own YAML layer takes the last of
//! two equal keys. So the text is surveyed by a parser that streams, and then the tree is built node
//! by node: each is paid for from a budget, and equal keys, tags and merge keys are faults instead of
//! surprises.

use std::cell::Cell;
use std::fmt;

use figment::value::{Dict, Empty, Value};
use saphyr_parser::{Event, Marker, Parser};
use serde::de::{
    DeserializeSeed, EnumAccess, Error as _, IgnoredAny, MapAccess, SeqAccess, VariantAccess,
    Visitor,
};
use serde::{Deserializer, de};

use super::fault::{Faults, Mark, Spot, element, quoted, under};

/// The deepest key of the format is 6 levels down.
const DEEPEST: usize = 16;
/// Bytes of a key; keys become part of paths.
pub(super) const LONGEST_KEY: usize = 256;
/// Scalars, and beginnings and ends of lists and maps. 10,000 processes have half as many.
const MOST_EVENTS: usize = 1_000_000;
/// What the tree may weigh: [`NODE_WEIGHT`] for each node, and each byte of its text. Aliases can
/// make a tree of any size out of a small file.
const HEAVIEST_TREE: usize = 64 << 20;
const NODE_WEIGHT: usize = 64;
const TOO_MUCH: &str = "aliases expand to too much: write the values out";

/// Reads the top-level map of `bytes`; `None` if there is none, and then at least one fault says why.
pub fn parse(bytes: &[u8], faults: &Faults) -> Option<Dict> {
    let whole = |message: String| {
        faults.add("", Spot::Value, message);
        None
    };
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let text = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let line = 1 + text.matches('\n').count();
            return whole(format!("line {line} is not UTF-8 text"));
        }
    };
    if let Err((mark, reason)) = survey(text) {
        faults.add("", Spot::Text(mark), reason);
        return None;
    }
    let weight_left = Cell::new(HEAVIEST_TREE);
    let node = Node { path: String::new(), weight_left: &weight_left, faults };
    match node.deserialize(serde_yaml::Deserializer::from_str(text)) {
        Ok(Value::Dict(_, dict)) => Some(dict),
        Ok(Value::Empty(..)) => {
            whole("is empty: a map with the key `processes` is expected".into())
        }
        Ok(other) => {
            whole(format!("a map with the key `processes` is expected, not {}", described(&other)))
        }
        // serde_yaml's own bound on aliases, in its words.
        Err(error) if error.to_string().contains("repetition limit exceeded") => {
            whole(TOO_MUCH.to_owned())
        }
        Err(error) => whole(format!("cannot be read as YAML: {error}")),
    }
}

/// Whether this is one YAML document within the bounds of the format; if not, where it ends to be.
fn survey(text: &str) -> Result<(), (Mark, String)> {
    let mark = |at: &Marker| Mark { line: at.line(), column: at.col() + 1 };
    let (mut depth, mut documents) = (0_usize, 0);
    for (count, event) in Parser::new_from_str(text).enumerate() {
        let (event, span) = event
            .map_err(|error| (mark(error.marker()), format!("is not YAML: {}", error.info())))?;
        match event {
            Event::DocumentStart(_) => documents += 1,
            Event::SequenceStart(..) | Event::MappingStart(..) => depth += 1,
            Event::SequenceEnd | Event::MappingEnd => depth = depth.saturating_sub(1),
            _ => {}
        }
        let refused = if documents > 1 {
            "a second document begins: one is expected".to_owned()
        } else if depth > DEEPEST {
            format!("nested more than {DEEPEST} levels deep")
        } else if count > MOST_EVENTS {
            format!("holds more than {MOST_EVENTS} values")
        } else {
            continue;
        };
        return Err((mark(&span.start), refused));
    }
    Ok(())
}

/// A value as a message names it.
pub fn described(value: &Value) -> String {
    match value {
        Value::String(_, text) => format!("the text {}", quoted(text)),
        Value::Char(_, character) => format!("the text \"{character}\""),
        Value::Bool(_, flag) => flag.to_string(),
        Value::Num(..) => match (whole_number(value), value.to_f64()) {
            (Some(number), _) => format!("the number {number}"),
            (None, Some(number)) => format!("the number {number:?}"),
            (None, None) => "a number".to_owned(),
        },
        Value::Empty(..) => "nothing".to_owned(),
        Value::Dict(..) => "a map".to_owned(),
        Value::Array(..) => "a list".to_owned(),
    }
}

/// A whole number of any of figment's kinds.
pub fn whole_number(value: &Value) -> Option<i128> {
    value
        .to_i128()
        .or_else(|| value.to_u128().map(|number| i128::try_from(number).unwrap_or(i128::MAX)))
}

/// Builds the value under `path`.
struct Node<'a> {
    path: String,
    weight_left: &'a Cell<usize>,
    faults: &'a Faults,
}

impl Node<'_> {
    fn pay<E: de::Error>(&self, text: usize) -> Result<(), E> {
        let left = self.weight_left.get().checked_sub(NODE_WEIGHT + text);
        self.weight_left.set(left.ok_or_else(|| E::custom(TOO_MUCH))?);
        Ok(())
    }

    fn child(&self, path: String) -> Self {
        Self { path, weight_left: self.weight_left, faults: self.faults }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        self.pay(0)?;
        Ok(value.into())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        self.pay(0)?;
        Ok(value.into())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        self.pay(0)?;
        Ok(value.into())
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Value, E> {
        self.pay(0)?;
        Ok(value.into())
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Value, E> {
        self.pay(0)?;
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        self.pay(0)?;
        Ok(value.into())
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        self.pay(value.len())?;
        Ok(value.into())
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        self.pay(0)?;
        Ok(Empty::Unit.into())
    }

    /// serde_yaml's way to show an empty file.
    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        self.pay(0)?;
        let mut values = Vec::new();
        while let Some(value) =
            list.next_element_seed(self.child(element(&self.path, values.len())))?
        {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        self.pay(0)?;
        let mut dict = Dict::new();
        while let Some(key) = map.next_key_seed(self.child(self.path.clone()))? {
            let Value::String(_, key) = key else {
                let message = format!("{} as a key must be in quotes", described(&key));
                self.faults.add(&self.path, Spot::Value, message);
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let refusal = if key.len() > LONGEST_KEY {
                Some((Spot::Value, format!("a key is longer than {LONGEST_KEY} bytes")))
            } else if key == "<<" {
                Some((
                    Spot::Value,
                    "merge keys (`<<`) are not supported: write the keys out".into(),
                ))
            } else if dict.contains_key(&key) {
                Some((Spot::SecondKey, "given twice: remove one of the two".into()))
            } else {
                None
            };
            match refusal {
                None => {
                    let value = map.next_value_seed(self.child(under(&self.path, &key)))?;
                    dict.insert(key, value);
                }
                Some((spot, message)) => {
                    let path = match spot {
                        Spot::SecondKey => under(&self.path, &key),
                        _ => self.path.clone(),
                    };
                    self.faults.add(path, spot, message);
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(dict.into())
    }

    /// serde_yaml's way to show a tag such as `!secret x`.
    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Value, A::Error> {
        let (tag, value) = tagged.variant::<String>()?;
        let message = format!("the tag {} is not supported: remove it", quoted(&tag));
        self.faults.add(&self.path, Spot::Value, message);
        value.newtype_variant_seed(self.child(self.path.clone())).map_err(A::Error::custom)
    }
}
