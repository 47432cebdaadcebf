//! Reading and writing small files, with errors that name them.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use prospect_core::RunConfig;

use crate::args::ConfigArgs;
use crate::error::CliError;

/// Reads the run configuration as typed: file, overrides, and the options that stand for keys,
/// which count more than `--set`.
pub fn read_config(args: &ConfigArgs, workers: Option<u32>) -> Result<RunConfig, CliError> {
    let text = read_text(&args.config)?;
    let options = [
        ("workers", workers),
        ("min_workers", args.min_workers),
        ("max_workers", args.max_workers),
    ];
    let typed = options
        .into_iter()
        .filter_map(|(key, value)| value.map(|value| format!("coordinator.{key}={value}")));
    let overrides: Vec<String> = args.set.iter().cloned().chain(typed).collect();
    let mut config = RunConfig::parse(&text, &overrides).map_err(|source| CliError::Config {
        path: args.config.clone(),
        source: Box::new(source),
    })?;
    if let Some(when) = args.resume {
        config.checkpoint.resume = when.into();
    }
    Ok(config)
}

/// Whether `coordinator.workers` was written down, in the file or as an override.
pub fn names_workers(args: &ConfigArgs) -> bool {
    let in_file = || {
        let table: toml::Table = read_text(&args.config).ok()?.parse().ok()?;
        table.get("coordinator")?.get("workers").map(|_| true)
    };
    let overridden = |entry: &String| {
        entry.split_once('=').is_some_and(|(key, _)| key.trim() == "coordinator.workers")
    };
    args.set.iter().any(overridden) || in_file().unwrap_or(false)
}

/// The run directory typed, else `runs/<name of the configuration>`.
pub fn run_dir(typed: Option<&Path>, config: &Path) -> PathBuf {
    match typed {
        Some(dir) => dir.to_owned(),
        None => Path::new("runs").join(config.file_stem().unwrap_or("run".as_ref())),
    }
}

/// Reads a whole text file.
pub fn read_text(path: &Path) -> Result<String, CliError> {
    fs::read_to_string(path).map_err(|source| CliError::Read { path: path.to_owned(), source })
}

/// Opens a file for appending, with its directory.
pub fn append(path: &Path) -> Result<File, CliError> {
    let failed = |source| CliError::Write { path: path.to_owned(), source };
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    OpenOptions::new().create(true).append(true).open(path).map_err(failed)
}

/// The last line of a file of JSON objects; `None` without file or line.
pub fn last_json_line(path: &Path) -> Option<serde_json::Map<String, serde_json::Value>> {
    let text = fs::read_to_string(path).ok()?;
    serde_json::from_str(text.lines().rfind(|line| !line.trim().is_empty())?).ok()
}

#[cfg(test)]
mod tests;
