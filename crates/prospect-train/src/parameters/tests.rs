use prospect_model::NamedParameter;
use tch::Device;

use super::*;

fn parameters() -> Vec<NamedParameter> {
    let parameter = |name: &str, shape: &[i64], decay| {
        let tensor = Tensor::f_arange(shape.iter().product::<i64>(), (Kind::Float, Device::Cpu));
        let tensor = tensor.unwrap().f_add_scalar(1.0).unwrap().f_view(shape).unwrap();
        NamedParameter { name: name.to_owned(), tensor, decay }
    };
    vec![
        parameter("norm", &[10], false),
        parameter("a", &[9, 11], true),
        parameter("b", &[3], true),
    ]
}

fn layout(rank: usize, world_size: usize) -> Layout {
    Layout::new(&parameters(), Place { rank, world_size })
}

#[test]
fn the_layout_does_not_depend_on_the_world() {
    for (rank, world_size) in [(0, 1), (1, 2), (2, 3), (6, 7)] {
        let layout = layout(rank, world_size);
        let places: Vec<_> = layout.slots.iter().map(|slot| (slot.offset, slot.numel)).collect();
        assert_eq!((places, layout.len()), (vec![(192, 10), (0, 99), (128, 3)], 256));
    }
}

/// Checks the shares of all ranks of a world; rank r's ends before `ends[r]`.
fn check_shards(world_size: usize, shard_len: i64, ends: &[i64]) {
    let (mut end, mut decaying) = (0, 0);
    let mut whole = Vec::new();
    for (rank, &expected) in ends.iter().enumerate() {
        let layout = layout(rank, world_size);
        assert_eq!((layout.shard_len(), layout.own()), (shard_len, end..expected));
        assert_eq!(layout.padded_len(), shard_len * world_size as i64);
        end = expected;
        let shard = Tensor::f_zeros([shard_len], (Kind::Float, Device::Cpu)).unwrap();
        let source = |slot: &Slot| {
            let found = parameters().into_iter().find(|parameter| parameter.name == slot.name);
            Ok(found.unwrap().tensor)
        };
        layout.fill(&shard, source).unwrap();
        let [front, rest] = layout.split(&shard, &(0..shard_len)).unwrap();
        assert_eq!(front.numel() + rest.numel(), shard_len as usize);
        decaying += front.numel();
        whole.push(shard);
    }
    assert_eq!((ends.len(), end, decaying), (world_size, 256, 192));
    let whole = Tensor::f_cat(&whole, 0).unwrap();
    for (slot, parameter) in layout(0, world_size).slots.iter().zip(parameters()) {
        assert_eq!(slot.view(&whole).unwrap(), parameter.tensor, "{}", slot.name);
    }
    let sum = whole.f_sum(Kind::Float).unwrap().f_double_value(&[]).unwrap();
    assert_eq!(sum, (1..=99).sum::<i64>() as f64 + 55.0 + 6.0, "the gaps are zero");
}

#[test]
fn shards_make_up_the_whole() {
    check_shards(1, 256, &[256]);
    check_shards(2, 128, &[128, 256]);
    check_shards(3, 128, &[128, 256, 256]);
    check_shards(4, 64, &[64, 128, 192, 256]);
    check_shards(5, 64, &[64, 128, 192, 256, 256]);
}

#[test]
fn own_parts_say_where_a_parameter_is_cut() {
    let cut = layout(1, 4);
    let parts: Vec<_> =
        cut.own_parts().map(|part| (part.slot_idx, part.of_parameter, part.of_shard)).collect();
    assert_eq!(parts, [(1, 64..99, 0..35)]);
    assert_eq!(layout(4, 5).own_parts().count(), 0);
}
