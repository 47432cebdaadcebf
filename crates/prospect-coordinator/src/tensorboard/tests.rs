use std::fs;

use super::*;

/// Takes a file apart into its messages and holds every checksum.
fn messages(mut bytes: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_at(8);
        let (length_crc, rest) = rest.split_at(4);
        assert_eq!(length_crc, masked(length).to_le_bytes());
        let (message, rest) =
            rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
        let (crc, rest) = rest.split_at(4);
        assert_eq!(crc, masked(message).to_le_bytes());
        events.push(Event::decode(message).unwrap());
        bytes = rest;
    }
    events
}

#[test]
fn files_hold_a_version_a_start_and_the_values_of_each_step() {
    let dir = tempfile::tempdir().unwrap();
    let now = UNIX_EPOCH + Duration::from_millis(1_700_000_000_500);
    let mut file = EventFile::create(dir.path(), Step(4), now).unwrap();
    let metrics = StepMetrics { step: Step(5), loss: 0.25, ..StepMetrics::default() };
    file.record("train", &metrics, now).unwrap();
    file.record("eval", &metrics, now).unwrap();

    let path = fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("events.out.tfevents.1700000000."), "{name}");
    let events = messages(&fs::read(&path).unwrap());
    let [version, start, train, eval] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(version.file_version.as_deref(), Some("brain.Event:2"));
    assert_eq!(version.wall_time, 1_700_000_000.5);
    assert_eq!((start.step, &start.session_log), (5, &Some(SessionLog { status: SESSION_START })));
    for (event, tag) in [(train, "train/loss"), (eval, "eval/loss")] {
        let values = &event.summary.as_ref().unwrap().value;
        let loss = values.iter().find(|value| value.tag == tag).unwrap();
        assert_eq!((event.step, loss.simple_value), (5, Some(0.25)));
    }
}

// The frame of an empty message, as TensorFlow's own writer makes it: length 0, then the
// masked checksums of 8 zero bytes and of nothing.
#[test]
fn the_frame_of_an_empty_message() {
    let expected = [0, 0, 0, 0, 0, 0, 0, 0, 0x29, 0x03, 0x98, 0x07, 0xd8, 0xea, 0x82, 0xa2];
    assert_eq!(frame(&[]), expected);
}
