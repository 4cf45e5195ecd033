//! `config.yaml` as a tree of values: what YAML itself can get wrong, within bounds of time and memory.
//!
//! Pure. Called by `check`, which decides what the values mean. The text comes from `load`; where a
//! value stands in it is found by `marks`, and only when there is something to report.
//!
//! serde_yaml expands aliases without a bound that would help here and figment's own YAML layer takes
//! the last of two equal keys. So the tree is built here, node by node: each node is paid for from a
//! budget, and equal keys, tags and merge keys are faults instead of surprises.

use std::cell::Cell;
use std::fmt;

use figment::value::{Dict, Empty, Value};
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
/// What the tree may weigh: [`NODE_WEIGHT`] for each node, and each byte of its text. Aliases can
/// make a tree of any size out of a small file.
const HEAVIEST_TREE: usize = 64 << 20;
const NODE_WEIGHT: usize = 64;
/// serde_yaml keeps every event of the text before the first value is read; each needs one of these
/// marks in the text, and some 130 bytes.
const MOST_STRUCTURE_MARKS: usize = 1_000_000;

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
    if structure_marks(text.as_bytes()) > MOST_STRUCTURE_MARKS {
        return whole(format!("holds more than {MOST_STRUCTURE_MARKS} lists, maps and entries"));
    }
    let weight_left = Cell::new(HEAVIEST_TREE);
    let node = Node { path: String::new(), depth: 0, weight_left: &weight_left, faults };
    match node.deserialize(serde_yaml::Deserializer::from_str(text)) {
        Ok(Value::Dict(_, dict)) => Some(dict),
        Ok(Value::Empty(..)) => {
            whole("is empty: a map with the key `processes` is expected".into())
        }
        Ok(other) => {
            whole(format!("a map with the key `processes` is expected, not {}", described(&other)))
        }
        Err(error) => {
            let spot = error.location().map_or(Spot::Value, |at| {
                Spot::Text(Mark { line: at.line(), column: at.column() })
            });
            let mut reason = error.to_string();
            if let Some(at) = error.location() {
                let place = format!(" at line {} column {}", at.line(), at.column());
                reason = reason.replacen(&place, "", 1);
            }
            faults.add("", spot, format!("cannot be read as YAML: {reason}"));
            None
        }
    }
}

/// A value as a message names it.
pub fn described(value: &Value) -> String {
    match value {
        Value::String(_, text) => format!("the text {}", quoted(text)),
        Value::Char(_, character) => format!("the text \"{character}\""),
        Value::Bool(_, flag) => flag.to_string(),
        Value::Num(..) => match (value.to_i128(), value.to_u128(), value.to_f64()) {
            (Some(number), ..) => format!("the number {number}"),
            (_, Some(number), _) => format!("the number {number}"),
            (_, _, Some(number)) => format!("the number {number}"),
            _ => "a number".to_owned(),
        },
        Value::Empty(..) => "nothing".to_owned(),
        Value::Dict(..) => "a map".to_owned(),
        Value::Array(..) => "a list".to_owned(),
    }
}

/// Counts the bytes that can begin a list, a map or an entry of one. Some stand inside texts and
/// begin nothing: the count is an upper bound.
fn structure_marks(text: &[u8]) -> usize {
    let blank_at = |index: usize| text.get(index).is_none_or(u8::is_ascii_whitespace);
    text.iter()
        .enumerate()
        .filter(|(index, byte)| match byte {
            b'[' | b'{' | b',' => true,
            b'-' | b'?' => blank_at(index + 1),
            b':' => {
                blank_at(index + 1)
                    || matches!(text[index.saturating_sub(1)], b'"' | b'\'' | b']' | b'}')
            }
            _ => false,
        })
        .count()
}

/// Builds the value under `path`.
struct Node<'a> {
    path: String,
    depth: usize,
    weight_left: &'a Cell<usize>,
    faults: &'a Faults,
}

impl Node<'_> {
    fn pay<E: de::Error>(&self, text: usize) -> Result<(), E> {
        let left = self.weight_left.get().checked_sub(NODE_WEIGHT + text);
        self.weight_left.set(left.ok_or_else(|| E::custom("its aliases expand to too much"))?);
        Ok(())
    }

    fn child(&self, path: String) -> Self {
        Self { path, depth: self.depth + 1, weight_left: self.weight_left, faults: self.faults }
    }

    fn go_deeper<E: de::Error>(&self) -> Result<(), E> {
        if self.depth == DEEPEST {
            return Err(E::custom(format_args!("nested more than {DEEPEST} levels deep")));
        }
        Ok(())
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

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        self.pay(0)?;
        self.go_deeper()?;
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
        self.go_deeper()?;
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
        self.go_deeper()?;
        let (tag, value) = tagged.variant::<String>()?;
        let message = format!("the tag {} is not supported: remove it", quoted(&tag));
        self.faults.add(&self.path, Spot::Value, message);
        value.newtype_variant_seed(self.child(self.path.clone())).map_err(A::Error::custom)
    }
}
