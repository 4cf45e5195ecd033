//! Finds the line and column of each fault, by a parser that keeps them, over the same bytes.
//!
//! Pure. Called by `load`, and only when there is something to report: figment and serde_yaml's
//! values do not know where they came from, and a correct file need not be read twice.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, Span};

use super::fault::{Fault, Mark, Spot, element, under};
use super::file::LONGEST_KEY;

/// Sets the marks of `faults` from `text` and sorts them by their place.
///
/// What lies behind an alias has no place of its own and gets that of the nearest thing around it.
/// Where this parser stops early because it is stricter, the rest goes without marks.
pub fn locate(faults: &mut [Fault], text: &str) {
    let mut found = Found::default();
    for fault in &*faults {
        let mut path = fault.path.as_str();
        while found.values.insert(path.to_owned(), None).is_none() && !path.is_empty() {
            path = parent(path);
        }
    }
    let mut walk = Walk { found, open: Vec::new() };
    for (event, span) in Parser::new_from_str(text).map_while(Result::ok) {
        walk.on(&event, span);
    }
    for fault in &mut *faults {
        if fault.mark.is_none() {
            fault.mark = walk.found.of(fault);
        }
    }
    faults.sort_by(|a, b| a.mark.is_none().cmp(&b.mark.is_none()).then(a.mark.cmp(&b.mark)));
}

/// The path without its last step. Brackets inside a quoted key may cut it short or long; then it
/// names nothing and its own parent is tried.
fn parent(path: &str) -> &str {
    path.rfind(['.', '[']).map_or("", |end| &path[..end])
}

#[derive(Default)]
struct Found {
    /// Every path wanted, all those around it included.
    values: HashMap<String, Option<Mark>>,
    keys: HashMap<String, Mark>,
    second_keys: HashMap<String, Mark>,
}

impl Found {
    fn of(&self, fault: &Fault) -> Option<Mark> {
        let mut path = fault.path.as_str();
        let exact = match fault.spot {
            Spot::Key => self.keys.get(path),
            Spot::SecondKey => self.second_keys.get(path),
            Spot::Variable(_) => return None,
            Spot::Value | Spot::Text(_) => None,
        };
        if let Some(mark) = exact {
            return Some(*mark);
        }
        // The file as a whole has no place worth naming.
        while !path.is_empty() {
            if let Some(Some(mark)) = self.values.get(path) {
                return Some(*mark);
            }
            path = parent(path);
        }
        None
    }
}

/// A list or map that has begun and not ended. `path` is `None` where nothing inside is wanted.
struct Open {
    path: Option<String>,
    inside: Inside,
}

enum Inside {
    List {
        next: usize,
    },
    /// A map whose next node is a key.
    Key,
    /// A map whose next node is the value of the key with this path.
    Value {
        path: Option<String>,
    },
}

struct Walk {
    found: Found,
    open: Vec<Open>,
}

impl Walk {
    fn on(&mut self, event: &Event<'_>, span: Span) {
        let mark = Mark { line: span.start.line(), column: span.start.col() + 1 };
        match event {
            Event::Scalar(text, ..) => self.node(Some(text), mark, None),
            Event::Alias(_) => self.node(None, mark, None),
            Event::SequenceStart(..) => self.node(None, mark, Some(Inside::List { next: 0 })),
            Event::MappingStart(..) => self.node(None, mark, Some(Inside::Key)),
            Event::SequenceEnd | Event::MappingEnd => {
                self.open.pop();
            }
            _ => {}
        }
    }

    /// A node begins; `scalar` is its text if it is one, `inside` is how to go on if it is not.
    fn node(&mut self, scalar: Option<&str>, mark: Mark, inside: Option<Inside>) {
        let wanted = |path: String| self.found.values.contains_key(&path).then_some(path);
        let path = match self.open.last_mut() {
            None => wanted(String::new()),
            Some(Open { path, inside: Inside::List { next } }) => {
                *next += 1;
                path.as_ref().and_then(|path| wanted(element(path, *next - 1)))
            }
            Some(Open { path, inside: state @ Inside::Key }) => {
                let key = scalar.filter(|key| key.len() <= LONGEST_KEY);
                let key = path.as_ref().zip(key).and_then(|(path, key)| wanted(under(path, key)));
                if let Some(key) = &key {
                    if self.found.keys.contains_key(key) {
                        self.found.second_keys.entry(key.clone()).or_insert(mark);
                    } else {
                        self.found.keys.insert(key.clone(), mark);
                    }
                }
                *state = Inside::Value { path: key };
                if let Some(inside) = inside {
                    self.open.push(Open { path: None, inside });
                }
                return;
            }
            Some(Open { inside: state @ Inside::Value { .. }, .. }) => {
                match std::mem::replace(state, Inside::Key) {
                    Inside::Value { path } => path,
                    Inside::Key | Inside::List { .. } => None,
                }
            }
        };
        if let Some(path) = &path {
            self.found.values.entry(path.clone()).and_modify(|first| *first = first.or(Some(mark)));
        }
        if let Some(inside) = inside {
            self.open.push(Open { path, inside });
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const TEXT: &str = "\
a: 1
list:
  - x: 2
    \"y.z\": 3
  - &anchor { deep: [4, 5] }
  - *anchor
? [complex, key]
: 6
a: 7
";

    #[rstest]
    #[case::scalar("a", Spot::Value, Some((1, 4)))]
    #[case::key("list[0].x", Spot::Key, Some((3, 5)))]
    #[case::in_a_list("list[0].x", Spot::Value, Some((3, 8)))]
    #[case::quoted_key("list[0][\"y.z\"]", Spot::Value, Some((4, 12)))]
    #[case::flow("list[1].deep[1]", Spot::Value, Some((5, 25)))]
    #[case::behind_an_alias("list[2].deep[1]", Spot::Value, Some((6, 5)))]
    #[case::second_key("a", Spot::SecondKey, Some((9, 1)))]
    #[case::missing_key_gets_its_map("list[0].nothing", Spot::Value, Some((3, 5)))]
    #[case::the_whole_file("", Spot::Value, None)]
    #[case::variable("a", Spot::Variable("HEALER_A".into()), None)]
    fn a_fault_finds_its_place(
        #[case] path: &str,
        #[case] spot: Spot,
        #[case] place: Option<(usize, usize)>,
    ) {
        let mut faults = [Fault { path: path.into(), spot, mark: None, message: "wrong".into() }];
        locate(&mut faults, TEXT);
        assert_eq!(faults[0].mark.map(|mark| (mark.line, mark.column)), place);
    }
}
