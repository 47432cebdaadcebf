//! The judgement for people and for programs.

use std::fmt;

use serde_json::{Map, Value, json};

use super::finding::Verdict;
use super::judge::{Judgement, LawVerdict, Summary};
use super::run::State;

impl Judgement {
    /// One JSON object and a line's end.
    pub(super) fn to_json(&self) -> String {
        let mut object = json!({
            "holds": self.holds(),
            "run": self.run.to_json(),
        });
        if let Some(against) = &self.against {
            object["against"] = against.to_json();
        }
        object["laws"] = self.laws.iter().map(LawVerdict::to_json).collect();
        format!("{object}\n")
    }
}

impl LawVerdict {
    fn to_json(&self) -> Value {
        let (verdict, detail) = match &self.verdict {
            Verdict::Holds(text) => ("ok", ("message", json!(text))),
            Verdict::Broken(finding) => ("broken", ("difference", json!(finding))),
            Verdict::NotJudged(text) => ("not_judged", ("message", json!(text))),
        };
        let pairs = [
            ("law", json!(self.law)),
            ("about", json!(self.about)),
            ("verdict", json!(verdict)),
            detail,
        ];
        let object: Map<String, Value> =
            pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Value::Object(object)
    }
}

impl Summary {
    fn to_json(&self) -> Value {
        json!({
            "run_dir": self.run_dir,
            "state": self.state.name(),
            "step": self.step,
            "attempt": self.attempt,
        })
    }
}

impl State {
    /// The state in one word.
    fn name(&self) -> &str {
        match self {
            Self::Unended => "unended",
            Self::Ended(phase) => phase,
        }
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "run      {}", self.run)?;
        self.against.iter().try_for_each(|against| writeln!(f, "against  {against}"))?;
        self.laws.iter().try_for_each(|law| writeln!(f, "{law}"))
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { run_dir, state, step, attempt } = self;
        match state {
            State::Ended(phase) => {
                write!(f, "{run_dir}: {phase} at step {step}, attempt {attempt}")
            }
            State::Unended => write!(
                f,
                "{run_dir}: at step {step}, attempt {attempt}; it has not ended and is judged as \
                 far as it goes"
            ),
        }
    }
}

impl fmt::Display for LawVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:<10}  ", self.law, self.about)?;
        match &self.verdict {
            Verdict::Holds(text) => write!(f, "ok: {text}"),
            Verdict::Broken(finding) => write!(f, "broken: {finding}"),
            Verdict::NotJudged(text) => write!(f, "not judged: {text}"),
        }
    }
}
