use super::*;

fn check_refused(result: Result<TcpStore>, expected: &str) {
    let message = result.expect_err("the store was made").to_string();
    assert!(message.contains(expected), "{message}");
}

const SHORT: Duration = Duration::from_millis(200);

#[test]
fn a_free_port_is_found_and_can_be_connected_to() {
    let host = TcpStore::host("127.0.0.1", 0, Duration::from_secs(20)).unwrap();
    assert_ne!(host.port(), 0);
    let client = TcpStore::connect("127.0.0.1", host.port(), Duration::from_secs(20)).unwrap();
    assert_eq!(client.port(), host.port());
}

#[test]
fn all_interfaces_can_be_listened_on() {
    let host = TcpStore::host("0.0.0.0", 0, Duration::from_secs(20)).unwrap();
    TcpStore::connect("127.0.0.1", host.port(), Duration::from_secs(20)).unwrap();
}

#[test]
fn a_port_in_use_is_named() {
    let host = TcpStore::host("127.0.0.1", 0, SHORT).unwrap();
    let address = format!("127.0.0.1:{}", host.port());
    check_refused(TcpStore::host("127.0.0.1", host.port(), SHORT), &address);
}

#[test]
fn a_host_name_is_no_address_to_listen_on() {
    check_refused(TcpStore::host("localhost", 0, SHORT), "\"localhost\" is not an IP address");
}

#[test]
fn a_timeout_has_to_be_a_sensible_time() {
    check_refused(TcpStore::host("127.0.0.1", 0, Duration::ZERO), "below a millisecond");
    check_refused(TcpStore::host("127.0.0.1", 0, Duration::MAX), "longer than a year");
}

#[test]
fn a_store_that_is_not_there_is_a_timeout() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let error = TcpStore::connect("127.0.0.1", port, SHORT).unwrap_err();
    assert!(matches!(error, LibtorchError::Timeout { .. }), "{error}");
}
