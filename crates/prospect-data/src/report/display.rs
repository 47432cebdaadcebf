//! The report as a table for people.

use std::fmt;

use super::{DataReport, Percentiles};

const NAME_WIDTH: usize = 22;

impl fmt::Display for DataReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for file in &self.files {
            line(f, "file", &format!("{} ({} rows)", file.file, file.rows))?;
        }
        line(f, "rows used", &format!("{} of {}", self.rows, self.rows_read))?;
        line(
            f,
            "classes",
            &format!("{} desirable, {} undesirable", self.num_desirable, self.num_undesirable),
        )?;
        match &self.weight_advice {
            Some(advice) => line(f, "class weights at 1", &advice.to_string())?,
            None => line(f, "class weights", "no advice: only one class occurs")?,
        }
        line(f, "distinct prompts", &self.distinct_prompts.to_string())?;
        line(f, "duplicates", &format!("{} rows repeat an earlier one", self.duplicates))?;
        line(
            f,
            "contradictions",
            &format!("{} completions are labelled both ways", self.contradictory),
        )?;
        let tokenised = self.num_tokens > 0;
        if tokenised {
            let limit = self.max_length;
            line(f, "tokens used", &self.num_tokens.to_string())?;
            line(
                f,
                "truncated",
                &format!("{} completions, at {limit} tokens in all", self.truncated),
            )?;
            line(
                f,
                "overlong, left out",
                &format!("{} rows, prompts of {limit} tokens or more", self.overlong),
            )?;
            line(f, "prompt not a prefix", &format!("{} rows", self.non_prefix_prompts))?;
        }
        line(f, "bad rows", &self.bad_rows.len().to_string())?;
        self.write_lengths(f)?;
        if !self.bad_rows.is_empty() {
            writeln!(f, "\nbad rows:")?;
        }
        for row in &self.bad_rows {
            writeln!(f, "  {row}")?;
        }
        Ok(())
    }
}

impl DataReport {
    fn write_lengths(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(lengths) = &self.lengths else { return Ok(()) };
        writeln!(
            f,
            "\n{:<NAME_WIDTH$}{:>9}{:>8}{:>8}{:>8}{:>8}{:>8}{:>8}{:>8}",
            format!("length in {}", lengths.unit),
            "mean",
            "p5",
            "p50",
            "p75",
            "p90",
            "p95",
            "p99",
            "max"
        )?;
        for (name, part) in
            [("prompt", lengths.prompt), ("completion", lengths.completion), ("both", lengths.both)]
        {
            let Percentiles { mean, p5, p50, p75, p90, p95, p99, max, .. } = part;
            writeln!(
                f,
                "{name:<NAME_WIDTH$}{mean:>9.1}{p5:>8}{p50:>8}{p75:>8}{p90:>8}{p95:>8}{p99:>8}{max:>8}"
            )?;
        }
        Ok(())
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, value: &str) -> fmt::Result {
    writeln!(f, "{name:<NAME_WIDTH$}{value}")
}
