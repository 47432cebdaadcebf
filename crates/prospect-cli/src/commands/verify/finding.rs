//! What differs, and where.

use std::fmt;

use serde::Serialize;

/// The first thing that breaks a law.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// File or directory, relative to the run directory.
    pub(super) file: String,
    /// Line of the file, from 1, where it is one of lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) line: Option<usize>,
    /// Step that it is about, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) step: Option<u64>,
    /// What of it.
    pub(super) field: Box<str>,
    /// Its value there.
    pub(super) found: Box<str>,
    /// The value that the law asks for.
    pub(super) expected: Box<str>,
}

/// How a law stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// It holds, for what is said.
    Holds(String),
    /// It does not.
    Broken(Finding),
    /// Why it cannot be judged.
    NotJudged(String),
}

impl Finding {
    /// Something about a file as a whole.
    pub(super) fn in_file(
        file: &str,
        field: &str,
        found: impl fmt::Display,
        expected: impl fmt::Display,
    ) -> Self {
        Self {
            file: file.to_owned(),
            line: None,
            step: None,
            field: field.into(),
            found: found.to_string().into(),
            expected: expected.to_string().into(),
        }
    }

    /// The same at a line.
    pub(super) fn at_line(self, line: usize) -> Self {
        Self { line: Some(line), ..self }
    }

    /// The same about a step.
    pub(super) fn of_step(self, step: u64) -> Self {
        Self { step: Some(step), ..self }
    }
}

impl Verdict {
    /// The same where a part of what the law is about is missing: no break, but no proof.
    pub(super) fn only_so_far(self, reason: &str) -> Self {
        match self {
            Self::Holds(text) => Self::NotJudged(format!("{reason}; until there {text}")),
            other => other,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        self.line.iter().try_for_each(|line| write!(f, " line {line}"))?;
        self.step.iter().try_for_each(|step| write!(f, ", step {step}"))?;
        write!(f, ": {} is {}, expected {}", self.field, self.found, self.expected)
    }
}

impl From<Result<String, Finding>> for Verdict {
    fn from(result: Result<String, Finding>) -> Self {
        result.map_or_else(Self::Broken, Self::Holds)
    }
}
