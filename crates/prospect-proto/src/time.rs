//! Durations and moments. What a protobuf type cannot hold is held at its limit.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::MessageError;

/// As a protobuf duration.
pub(crate) fn duration(value: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(value)
        .unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 0 })
}

/// From a protobuf duration, which may not be negative.
pub(crate) fn parse_duration(
    value: prost_types::Duration,
    field: &str,
) -> Result<Duration, MessageError> {
    Duration::try_from(value).map_err(|_| MessageError::new(field, "it is negative"))
}

/// As a protobuf timestamp.
pub(crate) fn timestamp(value: SystemTime) -> prost_types::Timestamp {
    prost_types::Timestamp::from(value)
}

/// From a protobuf timestamp; what lies before 1970 counts as 1970.
pub(crate) fn parse_timestamp(
    value: Option<prost_types::Timestamp>,
    field: &str,
) -> Result<SystemTime, MessageError> {
    let value = value.ok_or_else(|| MessageError::missing(field))?;
    let seconds = u64::try_from(value.seconds).unwrap_or_default();
    let nanos = u32::try_from(value.nanos).unwrap_or_default().min(999_999_999);
    UNIX_EPOCH
        .checked_add(Duration::new(seconds, nanos))
        .ok_or_else(|| MessageError::new(field, format!("{seconds} seconds are out of range")))
}
