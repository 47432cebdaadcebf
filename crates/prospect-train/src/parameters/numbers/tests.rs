use prospect_libtorch::{ensure_cuda_loaded, set_threads};

use super::*;

/// The CPU, and a GPU where there is one.
fn devices() -> Vec<Device> {
    let cuda = ensure_cuda_loaded().then_some(Device::Cuda(0));
    set_threads(1);
    [Device::Cpu].into_iter().chain(cuda).collect()
}

fn bits_of(numbers: &Tensor) -> Vec<u32> {
    let bits = numbers.f_view_dtype(Kind::Int).unwrap().f_to_device(Device::Cpu).unwrap();
    Vec::<i32>::try_from(bits).unwrap().into_iter().map(|bits| bits as u32).collect()
}

fn tensor_of(bits: &[u32], device: Device) -> Tensor {
    let bits: Vec<i32> = bits.iter().map(|&bits| bits as i32).collect();
    let bits = Tensor::f_from_slice(&bits).unwrap().f_to_device(device).unwrap();
    bits.f_view_dtype(Kind::Float).unwrap()
}

/// Halves that hold these bits.
fn halves_of(bits: &[u32], device: Device) -> Numbers {
    let options = (Kind::BFloat16, device);
    let numbers = Numbers::beside(&Tensor::f_ones([bits.len() as i64], options).unwrap()).unwrap();
    numbers.take(&tensor_of(bits, device)).unwrap();
    numbers
}

fn rounded_of(numbers: &Numbers) -> Vec<u16> {
    let Numbers::Halves { rounded, .. } = numbers else { panic!("they are whole") };
    let bits = rounded.f_view_dtype(Kind::Int16).unwrap().f_to_device(Device::Cpu).unwrap();
    Vec::<i16>::try_from(bits).unwrap().into_iter().map(|bits| bits as u16).collect()
}

/// Every upper half with lower halves around 0, the tie and the end, and some in between: zeros of
/// both signs, denormals, the largest numbers and infinities are among them.
fn patterns() -> Vec<u32> {
    let lower = [0, 1, 2, 0x1234, 0x7ffe, 0x7fff, 0x8000, 0x8001, 0x8002, 0xabcd, 0xfffe, 0xffff];
    let uppers = (0..=0xffff_u32).map(|upper| upper << 16);
    let all = uppers.flat_map(|upper| lower.map(|lower| upper | lower));
    all.filter(|&bits| !f32::from_bits(bits).is_nan()).collect()
}

#[test]
fn all_that_is_a_number_comes_back_bit_for_bit() {
    for device in devices() {
        let bits = patterns();
        let numbers = halves_of(&bits, device);
        assert!(bits_of(&numbers.values().unwrap()) == bits);
        let expected: Vec<u16> = bits.iter().map(|bits| ((bits + 0x8000) >> 16) as u16).collect();
        assert!(rounded_of(&numbers) == expected);
    }
}

#[test]
fn rounding_is_that_of_torch_but_for_ties() {
    let bits = patterns();
    let rounded = rounded_of(&halves_of(&bits, Device::Cpu));
    let torch = tensor_of(&bits, Device::Cpu).f_to_kind(Kind::BFloat16).unwrap();
    let torch = Vec::<i16>::try_from(torch.f_view_dtype(Kind::Int16).unwrap()).unwrap();
    let mut num_different = 0;
    for ((&bits, &rounded), &torch) in bits.iter().zip(&rounded).zip(&torch) {
        if rounded != torch as u16 {
            assert_eq!((bits & 0x1_ffff, rounded - 1), (0x8000, torch as u16), "{bits:x}");
            num_different += 1;
        }
    }
    // Every second upper half of a finite number.
    assert_eq!(num_different, 0x7f80);
}

#[test]
fn what_is_no_number_stays_none() {
    let bits = [0x7fc0_0000, 0x7fff_ffff, 0xffc0_0000, 0x7fff_8000, 0xffc1_2345];
    for device in devices() {
        let numbers = halves_of(&bits, device);
        let Numbers::Halves { rounded, .. } = &numbers else { panic!("they are whole") };
        for found in [rounded.shallow_clone(), numbers.values().unwrap()] {
            let all_nan = found.f_isnan().unwrap().f_all().unwrap();
            assert_eq!(all_nan.f_int64_value(&[]).unwrap(), 1, "{found}");
        }
    }
}

/// Writes fp32 and bf16 numbers into a part of others, in pieces and from main memory.
#[test]
fn numbers_of_any_type_are_written_into_a_part() {
    for device in devices() {
        let len = piece_len(device).min(1 << 18) + 192;
        let exact = Tensor::f_linspace(-3.0, 5.0, len, (Kind::Float, Device::Cpu)).unwrap();
        let (from, to) = (128, 128 + len);
        for (values, is_exact) in [(exact.f_to_kind(Kind::BFloat16).unwrap(), true), (exact, false)]
        {
            for numbers in [
                halves_of(&vec![0x4000_0000; to as usize + 64], device),
                Tensor::f_full([to + 64], 2.0, (Kind::Float, device)).unwrap().into(),
            ] {
                numbers.narrowed(&(from..to)).unwrap().write(&values).unwrap();
                let found = numbers.values().unwrap().f_to_device(Device::Cpu).unwrap();
                let part = narrowed(&found, &(from..to)).unwrap();
                assert!(part == values.f_to_kind(Kind::Float).unwrap());
                let outside = [narrowed(&found, &(0..from)), narrowed(&found, &(to..to + 64))];
                for outside in outside {
                    assert!(bits_of(&outside.unwrap()).iter().all(|&bits| bits == 0x4000_0000));
                }
                if let Numbers::Halves { remainder, .. } = &numbers {
                    let is_zero = remainder.f_count_nonzero(None).unwrap();
                    assert_eq!(is_zero.f_int64_value(&[]).unwrap() == 0, is_exact);
                }
            }
        }
    }
}

#[test]
fn pieces_cover_everything_once() {
    let cut = |len, most| pieces(len, most).collect::<Vec<_>>();
    assert_eq!(cut(5, 2), [0..2, 2..4, 4..5]);
    assert_eq!(cut(4, 4), cut(4, i64::MAX));
    assert!(cut(0, 64).is_empty());
}
