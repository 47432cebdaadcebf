//! Configurations that this repository gives away can be used.

use super::*;

#[test]
fn the_configuration_of_the_manifests_is_valid() {
    let text = include_str!("../../../../deploy/base/run.toml");
    let config = RunConfig::parse(text, &[]).unwrap();
    assert_eq!(config.coordinator.workers, 2);
}

#[test]
fn a_run_directory_is_named_after_its_configuration() {
    let check = |typed: Option<&str>, config: &str, expected: &str| {
        assert_eq!(run_dir(typed.map(Path::new), Path::new(config)), Path::new(expected));
    };
    check(None, "examples/short.toml", "runs/short");
    check(Some("elsewhere"), "examples/short.toml", "elsewhere");
}

#[test]
fn the_last_line_of_metrics_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.jsonl");
    assert_eq!(last_json_line(&path), None);
    std::fs::write(&path, "{\"step\":1}\n{\"step\":2}\n\n").unwrap();
    assert_eq!(last_json_line(&path).unwrap()["step"], 2);
}
