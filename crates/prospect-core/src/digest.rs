//! Digest of a model directory: two directories have the same digest when
//! their configuration and weights are the same bytes under the same names.

use std::collections::BTreeSet;
use std::io::{self, Read};

/// Builds a digest from files in the order of their names.
#[derive(Default)]
pub struct DigestBuilder {
    hasher: blake3::Hasher,
}

/// A file of a digest that cannot be opened or read.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {source}")]
pub struct DigestError {
    /// Its name.
    pub name: String,
    /// Why not.
    pub source: io::Error,
}

/// Digest of the files with these names, each read from what `open` gives for it.
///
/// # Errors
/// [`DigestError`] names the first file that cannot be opened or read.
pub fn digest_files<R: Read>(
    names: &BTreeSet<String>,
    mut open: impl FnMut(&str) -> io::Result<R>,
) -> Result<String, DigestError> {
    let mut digest = DigestBuilder::default();
    for name in names {
        open(name)
            .and_then(|content| digest.file(name, content))
            .map_err(|source| DigestError { name: name.clone(), source })?;
    }
    Ok(digest.finish())
}

/// Whether a file of this name is part of a model's digest: its configuration
/// and its weights. Tokenizer files are not, since workers see tokens only.
pub fn is_model_file(name: &str) -> bool {
    name == "config.json"
        || name == "model.safetensors.index.json"
        || (name.ends_with(".safetensors") && !name.starts_with('.'))
}

impl DigestBuilder {
    /// Adds a file. Callers add the files of a directory in the order of their names.
    ///
    /// # Errors
    /// Whatever `content` fails with.
    pub fn file(&mut self, name: &str, mut content: impl Read) -> io::Result<()> {
        let mut file = blake3::Hasher::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            match content.read(&mut buffer)? {
                0 => break,
                read => file.update(&buffer[..read]),
            };
        }
        self.hasher.update(&(name.len() as u64).to_le_bytes());
        self.hasher.update(name.as_bytes());
        self.hasher.update(file.finalize().as_bytes());
        Ok(())
    }

    /// The digest in hexadecimal.
    pub fn finish(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(files: &[(&str, &str)]) -> String {
        let mut builder = DigestBuilder::default();
        for (name, content) in files {
            builder.file(name, content.as_bytes()).unwrap();
        }
        builder.finish()
    }

    #[test]
    fn names_and_contents_both_count() {
        let base = check(&[("a", "xy"), ("b", "z")]);
        assert_eq!(base, check(&[("a", "xy"), ("b", "z")]));
        assert_ne!(base, check(&[("a", "x"), ("b", "yz")]));
        assert_ne!(base, check(&[("ab", "xyz")]));
    }

    #[test]
    fn files_are_read_in_the_order_of_their_names_and_named_when_they_fail() {
        let names = BTreeSet::from(["b".to_owned(), "a".to_owned()]);
        let digest =
            digest_files(&names, |name| Ok(if name == "a" { b"xy" as &[u8] } else { b"z" }));
        assert_eq!(digest.unwrap(), check(&[("a", "xy"), ("b", "z")]));
        let damaged = digest_files(&names, |name| match name {
            "a" => Ok(io::empty()),
            _ => Err(io::Error::other("damaged")),
        });
        assert_eq!(damaged.unwrap_err().to_string(), "b: damaged");
    }
}
