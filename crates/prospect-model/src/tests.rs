//! The forward pass and its gradients against transformers, and the walk along the chain.

use prospect_libtorch::{KeepGraph, vjp};
use tch::{Device, Kind, Tensor};

use crate::testing::{FIXTURES, FP32, expected, fixture, load, packed, relative_difference};
use crate::{CausalLm, ComputeType, Family, LoadOptions, ModelError, ModelFiles, Span};

/// Tolerance on logits and gradients in fp32, relative to the largest number.
const TOLERANCE: f64 = 1e-5;

/// Compares a family's logits of two packed sequences with transformers' of each alone.
fn check_logits(name: &str) {
    let (model, expected) = (load(name), expected(name));
    let (token_ids_t, lengths) = packed(&expected);
    let layout = model.layout(&lengths).unwrap();
    let logits_tv = model.forward_logits(&token_ids_t, &layout).unwrap();
    let logits = logits_tv.f_index_select(0, &expected["logit_rows"]).unwrap();
    let difference = relative_difference(&logits, &expected["logits"]);
    assert!(difference < TOLERANCE, "{name}: logits differ by {difference:e}");
    let difference = relative_difference(&model.frequencies, &expected["inv_freq"]);
    assert!(difference < 1e-7, "{name}: frequencies differ by {difference:e}");
}

#[test]
fn logits_of_llama_equal_transformers() {
    for name in ["llama2", "llama3", "llama-biases", "smollm2"] {
        check_logits(name);
    }
}

#[test]
fn logits_of_mistral_equal_transformers() {
    check_logits("mistral");
}

#[test]
fn logits_of_qwen_equal_transformers() {
    check_logits("qwen2");
    check_logits("qwen3");
}

#[test]
fn every_fixture_is_of_its_family() {
    let families = FIXTURES.map(|name| load(name).config().family);
    let (llama, others) = families.split_at(4);
    assert_eq!(llama, [Family::Llama; 4]);
    assert_eq!(others, [Family::Mistral, Family::Qwen2, Family::Qwen3]);
}

#[test]
fn gradients_by_vjp_equal_transformers() {
    let (model, expected) = (load("qwen3"), expected("qwen3"));
    let parameters: Vec<_> =
        (0..model.num_segments()).flat_map(|idx| model.segment_parameters(idx)).collect();
    let inputs: Vec<Tensor> = parameters
        .iter()
        .map(|parameter| parameter.tensor.f_set_requires_grad(true).unwrap())
        .collect();
    let (token_ids_t, lengths) = packed(&expected);
    let layout = model.layout(&lengths).unwrap();
    let logits_tv = model.forward_logits(&token_ids_t, &layout).unwrap();
    let weights = expected["logit_weights"].shallow_clone();
    let gradients = vjp(&[logits_tv], &inputs, &[weights], KeepGraph::No).unwrap();
    for (parameter, gradient) in parameters.iter().zip(gradients) {
        let key = format!("gradient.{}", parameter.name);
        let difference = relative_difference(&gradient.unwrap(), &expected[&key]);
        assert!(difference < TOLERANCE, "{key} differs by {difference:e}");
    }
}

#[test]
fn a_packed_sequence_gets_the_logits_that_it_gets_alone() {
    let (model, expected) = (load("llama3"), expected("llama3"));
    let (token_ids_t, lengths) = packed(&expected);
    let layout = model.layout(&lengths).unwrap();
    let logits_tv = model.forward_logits(&token_ids_t, &layout).unwrap();
    let mut begin = 0;
    for (key, length) in ["first", "second"].into_iter().zip(lengths) {
        let alone = model.layout(&[length]).unwrap();
        let alone = model.forward_logits(&expected[key], &alone).unwrap();
        let together = logits_tv.f_narrow(0, begin, length as i64).unwrap();
        let difference = relative_difference(&together, &alone);
        assert!(difference < 1e-6, "{key} differs by {difference:e}");
        begin += length as i64;
    }
}

/// Logits of a pass in which a second sequence continues the first `prefix` tokens of the first,
/// against those of both sequences whole.
fn check_prefix(name: &str, prefix: usize) {
    let (model, expected) = (load(name), expected(name));
    let first = &expected["first"];
    let length = first.numel();
    let own = expected["second"].f_narrow(0, 0, 4).unwrap();
    let prompt = first.f_narrow(0, 0, prefix as i64).unwrap();
    let logits = |ids: &[&Tensor], spans: &[Span]| {
        let layout = model.layout_of(spans).unwrap();
        assert_eq!(layout.num_spans(), spans.len());
        let ids = Tensor::f_cat(ids, 0).unwrap();
        assert_eq!(layout.num_tokens(), ids.numel());
        model.forward_logits(&ids, &layout).unwrap()
    };
    let whole = |length| Span { prefix: 0..0, length };
    let shared = logits(&[first, &own], &[whole(length), Span { prefix: 0..prefix, length: 4 }]);
    let apart = logits(&[first, &prompt, &own], &[whole(length), whole(prefix + 4)]);
    let rows = |tensor: &Tensor, begin: usize, count: usize| {
        tensor.f_narrow(0, begin as i64, count as i64).unwrap()
    };
    for (found, expected) in [(0, 0), (length, length + prefix)] {
        let count = if found == 0 { length } else { 4 };
        let difference =
            relative_difference(&rows(&shared, found, count), &rows(&apart, expected, count));
        assert!(difference < 1e-6, "{name}, {prefix}: differs by {difference:e}");
    }
}

#[test]
fn a_sequence_that_continues_a_prefix_gets_the_logits_that_it_gets_whole() {
    for name in FIXTURES {
        check_prefix(name, 3);
    }
    check_prefix("llama3", 1);
}

#[test]
fn auto_is_bf16_on_cuda_and_fp32_on_cpu() {
    let kinds = |compute: ComputeType| [Device::Cpu, Device::Cuda(0)].map(|d| compute.kind(d));
    assert_eq!(kinds(ComputeType::Auto), [Kind::Float, Kind::BFloat16]);
    assert_eq!(kinds(ComputeType::Float32), [Kind::Float, Kind::Float]);
    assert_eq!(kinds(ComputeType::Bfloat16), [Kind::BFloat16, Kind::BFloat16]);
}

#[test]
fn bf16_stays_near_fp32() {
    let options = LoadOptions { device: Device::Cpu, compute: ComputeType::Bfloat16 };
    let (model, expected) =
        (CausalLm::load(&fixture("smollm2"), &options).unwrap(), expected("smollm2"));
    let (token_ids_t, lengths) = packed(&expected);
    let layout = model.layout(&lengths).unwrap();
    let logits_tv = model.forward_logits(&token_ids_t, &layout).unwrap();
    assert_eq!(logits_tv.kind(), Kind::BFloat16);
    let logits = logits_tv.f_index_select(0, &expected["logit_rows"]).unwrap();
    let difference = relative_difference(&logits, &expected["logits"]);
    assert!(difference < 0.05, "logits differ by {difference:e}");
}

#[test]
fn segments_hold_the_parameters_in_order() {
    let untied = load("qwen3");
    let names = |segment| {
        let parameters = untied.segment_parameters(segment);
        parameters.iter().map(|parameter| (parameter.name.clone(), parameter.decay)).collect()
    };
    let block: Vec<(String, bool)> = names(2);
    let block: Vec<_> = block.iter().map(|(name, decay)| (name.as_str(), *decay)).collect();
    assert_eq!(
        block,
        [
            ("model.layers.1.self_attn.q_proj.weight", true),
            ("model.layers.1.self_attn.k_proj.weight", true),
            ("model.layers.1.self_attn.v_proj.weight", true),
            ("model.layers.1.self_attn.o_proj.weight", true),
            ("model.layers.1.self_attn.q_norm.weight", false),
            ("model.layers.1.self_attn.k_norm.weight", false),
            ("model.layers.1.mlp.gate_proj.weight", true),
            ("model.layers.1.mlp.up_proj.weight", true),
            ("model.layers.1.mlp.down_proj.weight", true),
            ("model.layers.1.input_layernorm.weight", false),
            ("model.layers.1.post_attention_layernorm.weight", false),
        ]
    );
    let last: Vec<(String, bool)> = names(3);
    assert_eq!(last, [("model.norm.weight".into(), false), ("lm_head.weight".into(), true)]);
    assert!(untied.segment_parameters(4).is_empty());
    let biased = load("qwen2");
    assert_eq!(biased.segment_parameters(3).len(), 1);
    let bias = &biased.segment_parameters(1)[1];
    assert_eq!((bias.name.as_str(), bias.decay), ("model.layers.0.self_attn.q_proj.bias", false));
    assert_eq!(biased.head_weight().data_ptr(), biased.segment_parameters(0)[0].tensor.data_ptr());
}

#[test]
fn replaced_parameters_are_the_ones_that_compute() {
    let mut model = load("llama2");
    let count = model.num_parameters();
    let zeros: Vec<Tensor> = model
        .segment_parameters(3)
        .iter()
        .map(|parameter| parameter.tensor.f_zeros_like().unwrap())
        .collect();
    model.replace_parameters(3, zeros).unwrap();
    let layout = model.layout(&[2]).unwrap();
    let logits_tv = model.forward_logits(&Tensor::from_slice(&[5_i64, 6]), &layout).unwrap();
    assert_eq!(f64::try_from(logits_tv.f_abs().unwrap().f_max().unwrap()).unwrap(), 0.0);
    assert_eq!(model.num_parameters(), count);
}

#[test]
fn a_skeleton_has_all_of_a_model_but_its_weights() {
    for name in ["qwen2", "qwen3"] {
        let (model, files) = (load(name), ModelFiles::open(&fixture(name)).unwrap());
        let mut skeleton = CausalLm::skeleton(&fixture(name), &FP32).unwrap();
        assert_eq!(skeleton.num_parameters(), model.num_parameters());
        for segment in 0..model.num_segments() {
            let mut filled = Vec::new();
            let expected = model.segment_parameters(segment);
            for (bare, expected) in skeleton.segment_parameters(segment).iter().zip(&expected) {
                assert_eq!((&bare.name, bare.decay), (&expected.name, expected.decay));
                assert_eq!(bare.tensor.size(), expected.tensor.size());
                assert_eq!(prospect_libtorch::storage_bytes(&bare.tensor).unwrap(), 4);
                let found = files.tensor(&bare.name).unwrap().f_to_kind(Kind::Float).unwrap();
                assert_eq!(found, expected.tensor, "{}", bare.name);
                filled.push(found);
            }
            skeleton.replace_parameters(segment, filled).unwrap();
        }
        let layout = model.layout(&[3]).unwrap();
        let token_ids_t = Tensor::from_slice(&[5_i64, 6, 7]);
        let logits_tv = model.forward_logits(&token_ids_t, &layout).unwrap();
        assert_eq!(skeleton.forward_logits(&token_ids_t, &layout).unwrap(), logits_tv);
    }
}

/// Checks the message of a refused call.
fn check_refused<T: std::fmt::Debug>(result: Result<T, ModelError>, message: &str) {
    assert_eq!(result.unwrap_err().to_string(), message);
}

#[test]
fn calls_that_make_no_sense_are_refused() {
    let mut model = load("llama2");
    check_refused(model.layout(&[]), "lengths is empty, but a pass needs a sequence");
    check_refused(model.layout(&[3, 0]), "length of sequence 1 is 0, but a sequence needs a token");
    check_refused(
        model.layout(&[3, 257]),
        "sequence 1 has 257 tokens, but the model has 256 positions; shorten it",
    );
    let spans = |prefix, length| [Span { prefix: 0..0, length: 3 }, Span { prefix, length }];
    check_refused(
        model.layout_of(&spans(1..4, 1)),
        "prefix of sequence 1 is 1..4, but only 3 tokens lie ahead of it",
    );
    check_refused(
        model.layout_of(&spans(0..3, 254)),
        "sequence 1 has 257 tokens, but the model has 256 positions; shorten it",
    );
    check_refused(
        model.replace_parameters(0, Vec::new()),
        "number of tensors is 0, but segment 0 has 1 parameters",
    );
    check_refused(
        model.replace_parameters(4, Vec::new()),
        "segment is 4, but the model has 4 segments",
    );
    check_refused(
        model.replace_parameters(0, vec![Tensor::from_slice(&[1_i64])]),
        "the tensor for \"model.embed_tokens.weight\" is [1] of Int64 on Cpu, but the parameter is [128, 32] of Float on Cpu",
    );
    let files = ModelFiles::open(&fixture("llama2")).unwrap();
    check_refused(
        files.tensor("model.norm.bias"),
        "a parameter's name is \"model.norm.bias\", but the configuration has no parameter of that name",
    );
    let layout = model.layout(&[1]).unwrap();
    let hidden_th = model.embed(&Tensor::from_slice(&[1_i64])).unwrap();
    check_refused(model.block(2, &hidden_th, &layout), "block is 2, but the model has 2 blocks");
    check_refused(
        model.embed(&Tensor::from_slice(&[128_i64])),
        "libtorch failed to look up the embeddings of token ids: Internal torch error: index out of range in self",
    );
}
