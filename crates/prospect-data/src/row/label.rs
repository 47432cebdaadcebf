//! Labels and weights: what counts as a yes, a no, or a number.

use prospect_core::{Columns, Label};
use serde_json::{Map, Value};

use super::{RowError, found};

/// The label of a row, from the label column or, where that is absent, from the `kto_tag` column.
pub(super) fn parse_label(
    row: &Map<String, Value>,
    columns: &Columns,
    threshold: Option<f64>,
) -> Result<Label, RowError> {
    let present = [&columns.label, &columns.kto_tag]
        .into_iter()
        .find_map(|name| Some((name, row.get(name).filter(|value| !value.is_null())?)));
    let Some((name, value)) = present else {
        return Err(RowError::new(
            &columns.label,
            "the label is missing; expected true or false, 0 or 1, or a score",
        ));
    };
    to_label(value, threshold).map_err(|message| RowError::new(name, message))
}

fn to_label(value: &Value, threshold: Option<f64>) -> Result<Label, String> {
    let desirable = match (value, threshold) {
        (Value::Bool(desirable), _) => Some(*desirable),
        (Value::Number(score), Some(threshold)) => score.as_f64().map(|score| score >= threshold),
        // Where a label is missing, pandas makes 0.0 and 1.0 of the others.
        (Value::Number(number), None) => match number.as_f64() {
            Some(0.0) => Some(false),
            Some(1.0) => Some(true),
            _ => None,
        },
        _ => None,
    };
    desirable.map(Label::from).ok_or_else(|| {
        let expected = match (value, threshold) {
            (Value::Number(_), None) => {
                "true or false, or 0 or 1; for scores set data.label_threshold"
            }
            (_, None) => "true or false, or 0 or 1",
            (_, Some(_)) => "a score to compare with data.label_threshold, or true or false",
        };
        format!("found {}; expected {expected}", found(value))
    })
}

/// The row's own weight; 1 where the column is absent.
pub(super) fn parse_weight(row: &Map<String, Value>, column: &str) -> Result<f64, RowError> {
    match row.get(column) {
        None | Some(Value::Null) => Ok(1.0),
        Some(value) => {
            value.as_f64().filter(|weight| weight.is_finite() && *weight >= 0.0).ok_or_else(|| {
                RowError::new(
                    column,
                    format!("found {}; expected a number that is 0 or above", found(value)),
                )
            })
        }
    }
}
