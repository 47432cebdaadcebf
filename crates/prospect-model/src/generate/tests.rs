//! Generation against transformers, against passes without a cache, and against its own promises.

use tch::Tensor;

use super::sample::choose;
use super::{GenerateOptions, Generated, generate};
use crate::testing::{FIXTURES, expected, ids, load};
use crate::{CausalLm, ModelError};

fn greedy(max_new_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_new_tokens,
        temperature: 0.0,
        top_p: 1.0,
        seed: 0,
        eos_token_ids: Vec::new(),
    }
}

fn sampled(seed: u64, top_p: f64) -> GenerateOptions {
    GenerateOptions { temperature: 0.9, top_p, seed, ..greedy(10) }
}

/// Both prompts of a fixture, and what transformers continues them with.
fn prompts(name: &str) -> ([Vec<i64>; 2], [Vec<i64>; 2]) {
    let expected = expected(name);
    let pair = |first, second| [ids(&expected[first]), ids(&expected[second])];
    (pair("first", "second"), pair("greedy.first", "greedy.second"))
}

/// Checks that both prompts of a fixture, in one batch, continue as in transformers.
fn check_greedy(name: &str) {
    let (prompts, expected) = prompts(name);
    let generated = generate(&load(name), &prompts, &greedy(expected[0].len())).unwrap();
    for (found, expected) in generated.into_iter().zip(expected) {
        assert_eq!(found, Generated { token_ids: expected, finished: false }, "{name}");
    }
}

#[test]
fn greedy_continuations_equal_transformers() {
    FIXTURES.into_iter().for_each(check_greedy);
}

/// Greedy continuation by a whole pass for every token.
fn without_cache(model: &CausalLm, prompt: &[i64], num_new_tokens: usize) -> Vec<i64> {
    let mut tokens = prompt.to_vec();
    for _ in 0..num_new_tokens {
        let layout = model.layout(&[tokens.len()]).unwrap();
        let logits_tv = model.forward_logits(&Tensor::from_slice(&tokens), &layout).unwrap();
        let last = logits_tv.f_get(-1).unwrap().f_argmax(None, false).unwrap();
        tokens.push(i64::try_from(last).unwrap());
    }
    tokens.split_off(prompt.len())
}

#[test]
fn the_cache_changes_nothing() {
    let model = load("smollm2");
    let prompts = vec![vec![3, 4, 5, 6, 7], vec![9], vec![100, 11, 12]];
    let generated = generate(&model, &prompts, &greedy(20)).unwrap();
    for (prompt, generated) in prompts.iter().zip(generated) {
        assert_eq!(generated.token_ids, without_cache(&model, prompt, 20));
    }
}

#[test]
fn an_end_token_ends_its_sequence_only() {
    let model = load("llama2");
    let (prompts, [first, second]) = prompts("llama2");
    let end = first[5];
    let length = first.iter().position(|token| *token == end).unwrap();
    assert!(!second.contains(&end), "the fixture's second continuation never ends");
    let options = GenerateOptions { eos_token_ids: vec![end], ..greedy(first.len()) };
    let generated = generate(&model, &prompts, &options).unwrap();
    let ended = Generated { token_ids: first[..length].to_vec(), finished: true };
    assert_eq!(generated, [ended, Generated { token_ids: second, finished: false }]);
}

#[test]
fn samples_depend_on_seed_and_prompt_index_but_not_on_the_batch() {
    let model = load("qwen2");
    let prompt = vec![20, 21, 22];
    for top_p in [1.0, 0.8] {
        let alone = generate(&model, std::slice::from_ref(&prompt), &sampled(7, top_p)).unwrap();
        let batch = [prompt.clone(), vec![5; 30], prompt.clone()];
        let together = generate(&model, &batch, &sampled(7, top_p)).unwrap();
        assert_eq!(alone[0], together[0]);
        assert_ne!(together[0], together[2]);
        assert_ne!(
            alone,
            generate(&model, std::slice::from_ref(&prompt), &sampled(8, top_p)).unwrap()
        );
    }
}

#[test]
fn more_prompts_than_a_batch_keep_their_order() {
    let model = load("qwen3");
    let prompts: Vec<Vec<i64>> = (0..70).map(|idx| vec![3 + idx, 50]).collect();
    let options = GenerateOptions { max_new_tokens: 3, ..greedy(3) };
    let generated = generate(&model, &prompts, &options).unwrap();
    assert_eq!(generated.len(), 70);
    for idx in [0, 63, 64, 69] {
        assert_eq!(generated[idx].token_ids, without_cache(&model, &prompts[idx], 3));
    }
}

/// How often each of the first tokens is chosen in 4,000 draws from the same logits.
fn shares(logits: &[f32], options: &GenerateOptions, count: usize) -> Vec<f64> {
    let num_draws = 4000;
    let row = Tensor::from_slice(logits).f_unsqueeze(0).unwrap();
    let logits_bv = row.f_expand([num_draws as i64, logits.len() as i64], false).unwrap();
    let indices: Vec<usize> = (0..num_draws).collect();
    let tokens = choose(&logits_bv, &indices, 3, options).unwrap();
    (0..count as i64)
        .map(|token| tokens.iter().filter(|found| **found == token).count() as f64)
        .map(|number| number / num_draws as f64)
        .collect()
}

#[test]
fn samples_follow_the_probabilities() {
    let logits = [0.5_f32, 0.3, 0.15, 0.05].map(f32::ln);
    let near = |found: Vec<f64>, expected: &[f64]| {
        for (found, expected) in found.iter().zip(expected) {
            // Four standard errors of a share of 4,000 draws.
            assert!((found - expected).abs() < 0.032, "{found} is not {expected}");
        }
    };
    let at = |temperature, top_p| GenerateOptions { temperature, ..sampled(1, top_p) };
    near(shares(&logits, &at(1.0, 1.0), 4), &[0.5, 0.3, 0.15, 0.05]);
    // At one half, probabilities are squared: 0.25, 0.09, 0.0225, 0.0025 of 0.365.
    near(shares(&logits, &at(0.5, 1.0), 4), &[0.685, 0.247, 0.062, 0.007]);
    // The two first reach 0.8; the nucleus of 0.81 holds the third as well.
    assert_eq!(shares(&logits, &at(1.0, 0.79), 4)[2..], [0.0, 0.0]);
    near(shares(&logits, &at(1.0, 0.79), 2), &[0.625, 0.375]);
    near(shares(&logits, &at(1.0, 0.81), 3), &[0.526, 0.316, 0.158]);
}

#[test]
fn a_wide_nucleus_reaches_beyond_the_first_candidates() {
    // 1,000 equal tokens: top_p 0.9 keeps 900, far more than are looked at first.
    let tokens =
        shares(&[0.0; 1000], &GenerateOptions { temperature: 1.0, ..sampled(2, 0.9) }, 1000);
    let num_chosen = tokens.iter().filter(|share| **share > 0.0).count();
    assert!((800..=901).contains(&num_chosen), "{num_chosen} tokens were chosen");
}

/// Checks the message of a refused call.
fn check_refused(prompts: &[Vec<i64>], options: &GenerateOptions, message: &str) {
    let error: ModelError = generate(&load("llama2"), prompts, options).unwrap_err();
    assert_eq!(error.to_string(), message);
}

#[test]
fn bad_requests_are_refused() {
    check_refused(&[vec![1], vec![]], &greedy(1), "prompt 1 is empty, but a prompt needs a token");
    check_refused(
        &[vec![1; 200]],
        &greedy(57),
        "sequence 0 has 257 tokens, but the model has 256 positions; shorten it",
    );
    check_refused(
        &[vec![1, 128]],
        &greedy(1),
        "a token of prompt 0 is 128, but the vocabulary has 128 tokens",
    );
    check_refused(
        &[],
        &GenerateOptions { temperature: -1.0, ..greedy(1) },
        "temperature is -1, but it must be 0 for the most probable token, or positive",
    );
    check_refused(
        &[],
        &GenerateOptions { top_p: 0.0, ..greedy(1) },
        "top_p is 0, but it must be above 0 and at most 1",
    );
}

#[test]
fn nothing_is_generated_when_nothing_is_asked_for() {
    let model = load("llama2");
    assert_eq!(generate(&model, &[], &greedy(4)).unwrap(), []);
    let generated = generate(&model, &[vec![1]], &greedy(0)).unwrap();
    assert_eq!(generated, [Generated { token_ids: Vec::new(), finished: false }]);
}
