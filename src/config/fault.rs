//! File faults: what is wrong, under which path of the file, and where that is in the text.
//!
//! Pure. `file`, `section` and `check` report here; `marks` adds lines and columns; `load` shows the
//! result. How a path such as `processes[2].monitor` is written is decided here and nowhere else.

use std::cell::{Cell, RefCell};
use std::fmt;

/// So many faults are kept and shown. A file with more is the wrong file.
const MOST_SHOWN: usize = 100;

/// A place in the text, both counted from 1, the column in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

/// What a fault points at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spot {
    /// The value under the path.
    Value,
    /// The key that ends the path.
    Key,
    /// The second occurrence of the key that ends the path.
    SecondKey,
    /// The text at this mark, whatever the path.
    Text(Mark),
    /// The environment variable that set the value.
    Variable(String),
}

/// One thing that is wrong in the text of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Such as `processes[2].monitor.interval_secs`; empty for the file as a whole.
    pub path: String,
    /// What it points at.
    pub spot: Spot,
    /// Where that is, once `marks` has looked.
    pub mark: Option<Mark>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match (&self.spot, self.mark) {
            (Spot::Variable(variable), _) => Some(format!("set by {variable}")),
            (_, Some(Mark { line, column })) => Some(format!("line {line}, column {column}")),
            (_, None) => None,
        };
        match (self.path.as_str(), place) {
            ("", None) => {}
            ("", Some(place)) => write!(f, "{place}: ")?,
            (path, None) => write!(f, "{path}: ")?,
            (path, Some(place)) => write!(f, "{path} ({place}): ")?,
        }
        f.write_str(&self.message)
    }
}

/// Collects faults while a file is read, so that all of them are reported at once.
#[derive(Debug, Default)]
pub struct Faults {
    kept: RefCell<Vec<Fault>>,
    more: Cell<bool>,
}

impl Faults {
    /// Adds a fault.
    pub fn add(&self, path: impl Into<String>, spot: Spot, message: impl Into<String>) {
        let mut kept = self.kept.borrow_mut();
        let mark = if let Spot::Text(mark) = spot { Some(mark) } else { None };
        let fault = Fault { path: path.into(), spot, mark, message: message.into() };
        if kept.contains(&fault) {
            // A key that is given three times is one fault.
        } else if kept.len() == MOST_SHOWN {
            self.more.set(true);
        } else {
            kept.push(fault);
        }
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.kept.borrow().is_empty()
    }

    /// Whether there are more than will be shown, so that looking further is in vain.
    pub fn overflow(&self) -> bool {
        self.more.get()
    }

    /// The faults that were kept, and whether there were more.
    pub fn into_parts(self) -> (Vec<Fault>, bool) {
        (self.kept.into_inner(), self.more.get())
    }
}

/// The path of `key` in the map at `path`.
pub fn under(path: &str, key: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    match (path, !key.is_empty() && key.bytes().all(plain)) {
        ("", true) => key.to_owned(),
        (_, true) => format!("{path}.{key}"),
        (_, false) => format!("{path}[{}]", quoted(key)),
    }
}

/// The path of element `index` of the list at `path`.
pub fn element(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

/// Text of the file as a message shows it: in quotes, escaped, and not endless.
pub fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", &text[..end]),
    }
}

/// `, did you mean "…"?` where one of `known` is close to what was written, else nothing.
pub fn suggestion<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let written = written.to_ascii_lowercase();
    // A third of the letters may be wrong; a longer text cannot be close to any word we know.
    let allowed = match written.chars().count() {
        0..=2 => 1,
        length @ 3..=64 => length.div_ceil(3),
        _ => return String::new(),
    };
    known
        .into_iter()
        .map(|word| (distance(&written, &word.to_ascii_lowercase()), word))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| format!(", did you mean \"{word}\"?"))
        .unwrap_or_default()
}

/// How many letters have to be inserted, removed or replaced (Levenshtein's distance).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("intervall_secs", "interval_secs", 1)]
    #[case("", "abc", 3)]
    #[case("kitten", "sitting", 3)]
    #[case("same", "same", 0)]
    fn distance_counts_edits(#[case] a: &str, #[case] b: &str, #[case] edits: usize) {
        assert_eq!(distance(a, b), edits);
        assert_eq!(distance(b, a), edits);
    }

    #[rstest]
    #[case::typo("intervall_secs", ", did you mean \"interval_secs\"?")]
    #[case::case("Interval_Secs", ", did you mean \"interval_secs\"?")]
    #[case::far("colour", "")]
    #[case::short("ty", "")]
    #[case::empty("", "")]
    fn a_suggestion_is_close(#[case] written: &str, #[case] expected: &str) {
        assert_eq!(suggestion(written, ["type", "interval_secs"]), expected);
    }

    #[rstest]
    #[case("", "a_b", "a_b")]
    #[case("a[0]", "b", "a[0].b")]
    #[case("a", "x.y", "a[\"x.y\"]")]
    #[case("a", "\u{1b}[2J", "a[\"\\u{1b}[2J\"]")]
    #[case("a", "", "a[\"\"]")]
    fn a_path_is_plain_or_escaped(#[case] path: &str, #[case] key: &str, #[case] shown: &str) {
        assert_eq!(under(path, key), shown);
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let shown = quoted(&"ä".repeat(1000));
        assert_eq!(shown.chars().filter(|c| *c == 'ä').count(), 60);
        assert!(shown.ends_with('…'));
    }

    #[test]
    fn faults_beyond_the_hundredth_are_not_kept() {
        let faults = Faults::default();
        for index in 0..130 {
            faults.add(element("a", index), Spot::Value, "wrong");
        }
        let (kept, more) = faults.into_parts();
        assert_eq!((kept.len(), more), (100, true));
    }
}
