//! The demo's voice: plain lines, coloured where a person reads them on a terminal.
//!
//! What is said is `story`'s.

use std::env;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use super::DemoError;

/// How a piece of a line looks on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    /// As everything else.
    Plain,
    /// A heading.
    Bold,
    /// Less important.
    Dim,
    /// An end, a refusal.
    Red,
    /// A recovery.
    Green,
    /// On trial.
    Yellow,
}

impl Paint {
    /// The escape code, ECMA-48's "select graphic rendition".
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Bold => "\x1b[1m",
            Self::Dim => "\x1b[2m",
            Self::Red => "\x1b[31m",
            Self::Green => "\x1b[32m",
            Self::Yellow => "\x1b[33m",
        }
    }
}

/// Writes to stdout.
#[derive(Debug)]
pub struct Narrator {
    colours: bool,
}

impl Narrator {
    /// Coloured on a terminal that is not dumb, unless `$NO_COLOR` says otherwise (no-color.org).
    pub fn stdout() -> Self {
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let refused = set("NO_COLOR").is_some() || set("TERM").is_none_or(|term| term == "dumb");
        Self { colours: io::stdout().is_terminal() && !refused }
    }

    /// Writes one line of several pieces.
    ///
    /// # Errors
    ///
    /// Nobody reads any more.
    pub fn say(&self, pieces: &[(Paint, &str)]) -> Result<(), DemoError> {
        let mut line = String::new();
        for (paint, text) in pieces {
            if self.colours && *paint != Paint::Plain {
                line.extend([paint.code(), text, "\x1b[0m"]);
            } else {
                line.push_str(text);
            }
        }
        // Columns at the end of a line may be empty.
        let line = if self.colours { &line } else { line.trim_end() };
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{line}")
            .and_then(|()| stdout.flush())
            .map_err(DemoError::system("write to stdout"))
    }

    /// Writes one plain line.
    ///
    /// # Errors
    ///
    /// Nobody reads any more.
    pub fn line(&self, text: &str) -> Result<(), DemoError> {
        self.say(&[(Paint::Plain, text)])
    }

    /// Begins a chapter.
    ///
    /// # Errors
    ///
    /// Nobody reads any more.
    pub fn heading(&self, text: &str) -> Result<(), DemoError> {
        self.line("")?;
        self.say(&[(Paint::Bold, text)])?;
        self.line("")
    }
}

/// Milliseconds, to the tenth.
pub fn ms(duration: Duration) -> String {
    format!("{} ms", tenths(duration))
}

/// The number of milliseconds, to the tenth.
pub fn tenths(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64() * 1_000.0)
}
