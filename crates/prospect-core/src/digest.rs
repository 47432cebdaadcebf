//! Digest of a model directory: two directories have the same digest when
//! their configuration and weights are the same bytes under the same names.

use std::io::{self, Read};

/// Builds a digest from files in the order of their names.
#[derive(Default)]
pub struct DigestBuilder {
    hasher: blake3::Hasher,
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
}
