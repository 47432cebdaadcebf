use super::*;

#[track_caller]
fn check(content: &str, expected: Result<Vec<u32>, &str>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lines.jsonl");
    fs::write(&path, content).unwrap();
    match (read_lines::<u32>(&path), expected) {
        (Ok(values), Ok(expected)) => assert_eq!(values, expected),
        (Err(error), Err(expected)) => {
            let message = error.to_string();
            assert!(message.contains(expected), "{message:?} does not contain {expected:?}");
        }
        (found, expected) => panic!("{content:?} gave {found:?}, expected {expected:?}"),
    }
}

#[test]
fn a_torn_last_line_is_passed_over_and_other_damage_is_named() {
    check("", Ok(vec![]));
    check("1\n2\n", Ok(vec![1, 2]));
    check("1\n2", Ok(vec![1]));
    check("1\n{\"st", Ok(vec![1]));
    check("1\nx\n3\n", Err("line 2"));
    check("1\nx\n", Err("line 2"));
}

#[test]
fn lines_are_appended_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lines.jsonl");
    let mut lines = JsonLines::open(&path).unwrap();
    lines.append(&1).unwrap();
    lines.append(&2).unwrap();
    lines.sync().unwrap();
    assert_eq!(read_lines::<u32>(&path).unwrap(), [1, 2]);
    assert_eq!(keep_lines::<u32>(&path, |&value| value > 1).unwrap(), [2]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "2\n");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file stayed");
}

#[test]
fn what_cannot_be_written_is_a_storage_error() {
    let error = JsonLines::open(Path::new("/proc/nowhere/lines.jsonl")).unwrap_err();
    assert_eq!(error.exit_code(), prospect_core::ExitCode::Storage);
    let mut full = JsonLines::open(Path::new("/dev/full")).unwrap();
    full.hurry();
    let message = full.append(&1).unwrap_err().to_string();
    assert!(message.contains("make room"), "{message}");
}

// Some numbers of this many digits come out of serde_json's parser with another last bit.
#[test]
fn lines_that_stay_keep_their_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lines.jsonl");
    let numbers: Vec<f64> = (1..200).map(|n| (f64::from(n) * 0.618).sin()).collect();
    let text: String = numbers.iter().map(|number| format!("{number:?}\n")).collect();
    fs::write(&path, format!("{text}0.12")).unwrap();
    keep_lines::<f64>(&path, |_| true).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn a_line_that_did_not_fit_is_taken_off_again() {
    // A limit of file sizes holds for a whole process, so the test is its own child under one.
    const PATH: &str = "PROSPECT_TEST_LIMITED_FILE";
    if let Some(path) = std::env::var_os(PATH) {
        let mut lines = JsonLines::open(Path::new(&path)).unwrap();
        while lines.append(&"x".repeat(300)).is_ok() {}
        return lines.append(&7).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lines.jsonl");
    let name = "storage::tests::a_line_that_did_not_fit_is_taken_off_again";
    let script = format!("trap '' XFSZ; ulimit -f 1; exec \"$0\" --exact {name}");
    let child = std::process::Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env(PATH, &path)
        .output()
        .unwrap();
    assert!(child.status.success(), "{child:?}");
    let lines: Vec<serde_json::Value> = read_lines(&path).unwrap();
    let (last, long) = lines.split_last().unwrap();
    assert_eq!(*last, 7);
    assert!(!long.is_empty() && long.iter().all(|line| line.as_str().unwrap().len() == 300));
}
