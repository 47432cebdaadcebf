//! JSON lines, and arrays of objects as LLaMA-Factory keeps them. Lines are
//! handed on as bytes: they are parsed where the work is parallel.

use std::fs::File;
use std::io::{self, BufRead, BufReader};

use serde_json::Value;

use super::{BATCH_ROWS, Codec, Layout, RawContent, RawRow, Source};
use crate::DataError;

const BUFFER_BYTES: usize = 1 << 18;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

type Sink<'a> = &'a mut dyn FnMut(Vec<RawRow>) -> Result<(), DataError>;

pub(super) fn read(source: &Source, sink: Sink<'_>) -> Result<(), DataError> {
    let mut reader = open(source).map_err(|error| failed(source, 0, error))?;
    if source.layout == Layout::Json
        && starts_an_array(&mut *reader).map_err(|error| failed(source, 0, error))?
    {
        return read_array(source, &mut *reader, sink);
    }
    read_lines(source, &mut *reader, sink)
}

fn open(source: &Source) -> io::Result<Box<dyn BufRead>> {
    let file = BufReader::with_capacity(BUFFER_BYTES, File::open(&source.path)?);
    Ok(match source.codec {
        Codec::Plain => Box::new(file),
        Codec::Gzip => Box::new(BufReader::with_capacity(
            BUFFER_BYTES,
            flate2::bufread::MultiGzDecoder::new(file),
        )),
        Codec::Zstd => Box::new(BufReader::with_capacity(
            BUFFER_BYTES,
            zstd::stream::read::Decoder::with_buffer(file)?,
        )),
    })
}

fn failed(source: &Source, line: u64, error: io::Error) -> DataError {
    DataError::Read { path: source.path.clone(), line, source: error }
}

/// Whether the first character that is no white space opens an array. Nothing is consumed.
fn starts_an_array(reader: &mut dyn BufRead) -> io::Result<bool> {
    let buffer = reader.fill_buf()?;
    let text = buffer.strip_prefix(BYTE_ORDER_MARK).unwrap_or(buffer);
    Ok(text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'['))
}

fn read_lines(source: &Source, reader: &mut dyn BufRead, sink: Sink<'_>) -> Result<(), DataError> {
    let mut batch = Vec::with_capacity(BATCH_ROWS);
    let mut line = 0;
    loop {
        let mut bytes = Vec::new();
        let read = reader.read_until(b'\n', &mut bytes);
        if read.map_err(|error| failed(source, line, error))? == 0 {
            break;
        }
        line += 1;
        if line == 1 && bytes.starts_with(BYTE_ORDER_MARK) {
            bytes.drain(..BYTE_ORDER_MARK.len());
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        batch.push(RawRow { line, content: RawContent::Bytes(bytes) });
        if batch.len() == BATCH_ROWS {
            sink(std::mem::replace(&mut batch, Vec::with_capacity(BATCH_ROWS)))?;
        }
    }
    sink(batch)
}

fn read_array(source: &Source, reader: &mut dyn BufRead, sink: Sink<'_>) -> Result<(), DataError> {
    let mut text = Vec::new();
    reader.read_to_end(&mut text).map_err(|error| failed(source, 0, error))?;
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&text);
    let items: Vec<Value> = serde_json::from_slice(text).map_err(|error| DataError::Decode {
        path: source.path.clone(),
        message: format!("expected a JSON array of objects: {error}"),
    })?;
    let mut batch = Vec::with_capacity(BATCH_ROWS);
    for (item, line) in items.into_iter().zip(1..) {
        let content = match item {
            Value::Object(object) => RawContent::Object(object),
            other => RawContent::Other(other),
        };
        batch.push(RawRow { line, content });
        if batch.len() == BATCH_ROWS {
            sink(std::mem::replace(&mut batch, Vec::with_capacity(BATCH_ROWS)))?;
        }
    }
    sink(batch)
}
