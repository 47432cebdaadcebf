use super::*;

#[test]
fn loading_answers_the_same_every_time() {
    let first = ensure_cuda_loaded();
    assert_eq!(first, ensure_cuda_loaded());
    assert_eq!(first, cuda_device_count() > 0);
}

#[test]
fn at_least_one_thread_is_used() {
    set_threads(0);
    assert_eq!(tch::get_num_threads(), 1);
    set_threads(2);
    assert_eq!(tch::get_num_threads(), 2);
    set_threads(1);
    assert_eq!(tch::get_num_threads(), 1);
}

#[test]
fn a_damaged_image_is_an_error() {
    let error = load_image(b"no shared object").unwrap_err();
    assert!(reason(error).contains("the CUDA half cannot be loaded"));
}
