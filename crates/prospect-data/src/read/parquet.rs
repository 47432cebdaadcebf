//! Parquet files: the needed columns, turned into the same JSON values that a
//! JSON line of the row would hold.

use std::fs::File;

use arrow::array::{Array, AsArray, RecordBatch, StructArray};
use arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Value};

use super::{BATCH_ROWS, RawContent, RawRow, Source};
use crate::DataError;

pub(super) fn read(
    source: &Source,
    columns: &[&str],
    sink: &mut dyn FnMut(Vec<RawRow>) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let decode = |message: String| DataError::Decode { path: source.path.clone(), message };
    let file = File::open(&source.path).map_err(|error| DataError::Read {
        path: source.path.clone(),
        line: 0,
        source: error,
    })?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)
        .map_err(|error| decode(format!("expected a Parquet file: {error}")))?;
    let schema = builder.parquet_schema();
    let roots: Vec<usize> = (0..schema.root_schema().get_fields().len())
        .filter(|&idx| columns.contains(&schema.root_schema().get_fields()[idx].name()))
        .collect();
    let mask = ProjectionMask::roots(schema, roots);
    let reader = builder
        .with_projection(mask)
        .with_batch_size(BATCH_ROWS)
        .build()
        .map_err(|error| decode(error.to_string()))?;
    let mut line = 0;
    for batch in reader {
        let batch = batch.map_err(|error| decode(format!("after row {line}: {error}")))?;
        sink(to_rows(&batch, &mut line).map_err(decode)?)?;
    }
    Ok(())
}

fn to_rows(batch: &RecordBatch, line: &mut u64) -> Result<Vec<RawRow>, String> {
    let mut rows: Vec<Map<String, Value>> = vec![Map::new(); batch.num_rows()];
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        for (idx, row) in rows.iter_mut().enumerate() {
            let value = to_json(column.as_ref(), idx).map_err(|found| {
                format!("column {:?} holds {found}, which cannot be read", field.name())
            })?;
            row.insert(field.name().clone(), value);
        }
    }
    Ok(rows
        .into_iter()
        .map(|row| {
            *line += 1;
            RawRow { line: *line, content: RawContent::Object(row) }
        })
        .collect())
}

/// The value at `idx` as JSON. A number that JSON lacks (not a number,
/// infinity) becomes text, which later checks refuse by name.
///
/// # Errors
/// The data type, when it has no counterpart in JSON.
fn to_json(array: &dyn Array, idx: usize) -> Result<Value, String> {
    if array.is_null(idx) {
        return Ok(Value::Null);
    }
    let float = |value: f64| {
        serde_json::Number::from_f64(value)
            .map_or_else(|| Value::String(value.to_string()), Value::Number)
    };
    Ok(match array.data_type() {
        DataType::Null => Value::Null,
        DataType::Boolean => array.as_boolean().value(idx).into(),
        DataType::Int8 => array.as_primitive::<Int8Type>().value(idx).into(),
        DataType::Int16 => array.as_primitive::<Int16Type>().value(idx).into(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(idx).into(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(idx).into(),
        DataType::UInt8 => array.as_primitive::<UInt8Type>().value(idx).into(),
        DataType::UInt16 => array.as_primitive::<UInt16Type>().value(idx).into(),
        DataType::UInt32 => array.as_primitive::<UInt32Type>().value(idx).into(),
        DataType::UInt64 => array.as_primitive::<UInt64Type>().value(idx).into(),
        DataType::Float32 => float(array.as_primitive::<Float32Type>().value(idx).into()),
        DataType::Float64 => float(array.as_primitive::<Float64Type>().value(idx)),
        DataType::Utf8 => array.as_string::<i32>().value(idx).into(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(idx).into(),
        DataType::Utf8View => array.as_string_view().value(idx).into(),
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let keys = dictionary.normalized_keys();
            to_json(dictionary.values().as_ref(), keys[idx])?
        }
        DataType::List(_) => to_list(array.as_list::<i32>().value(idx).as_ref())?,
        DataType::LargeList(_) => to_list(array.as_list::<i64>().value(idx).as_ref())?,
        DataType::FixedSizeList(..) => to_list(array.as_fixed_size_list().value(idx).as_ref())?,
        DataType::Struct(_) => to_object(array.as_struct(), idx)?,
        other => return Err(other.to_string()),
    })
}

fn to_list(items: &dyn Array) -> Result<Value, String> {
    (0..items.len()).map(|idx| to_json(items, idx)).collect::<Result<_, _>>().map(Value::Array)
}

/// A struct without its null members: every row of a Parquet file has all members
/// that any row has, so a null says no more than an absent key in JSON.
fn to_object(fields: &StructArray, idx: usize) -> Result<Value, String> {
    let mut object = Map::new();
    for (field, column) in fields.fields().iter().zip(fields.columns()) {
        let value = to_json(column.as_ref(), idx)?;
        if !value.is_null() {
            object.insert(field.name().clone(), value);
        }
    }
    Ok(Value::Object(object))
}
