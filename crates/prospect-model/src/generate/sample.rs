//! The choice of the next token from logits.

use tch::{Kind, TchError, Tensor};

use super::GenerateOptions;

/// Tokens that are looked at for top-p before the whole vocabulary is sorted.
const TOP_CANDIDATES: i64 = 512;

/// One token per row of `logits_bv`. `prompt_indices` and `position` (the number of tokens
/// generated before) say which random number a row gets.
pub(super) fn choose(
    logits_bv: &Tensor,
    prompt_indices: &[usize],
    position: usize,
    options: &GenerateOptions,
) -> Result<Vec<i64>, TchError> {
    if options.temperature == 0.0 {
        return Vec::try_from(&logits_bv.f_argmax(-1, false)?);
    }
    let probabilities = logits_bv
        .f_to_kind(Kind::Float)?
        .f_div_scalar(options.temperature)?
        .f_softmax(-1, Kind::Float)?;
    let uniform: Vec<f64> =
        prompt_indices.iter().map(|&idx| uniform(options.seed, idx, position)).collect();
    let uniform = Tensor::f_from_slice(&uniform)?.f_unsqueeze(1)?.f_to(logits_bv.device())?;
    let tokens = if options.top_p < 1.0 {
        let (weights, token_ids) = nucleus(&probabilities, options.top_p)?;
        token_ids.f_gather(1, &invert(&weights, &uniform)?, false)?
    } else {
        invert(&probabilities, &uniform)?
    };
    Vec::try_from(&tokens.f_squeeze_dim(1)?)
}

/// The most probable tokens, in falling order, that together reach `top_p`: probabilities (0 for
/// those beyond) and token ids, `[B, n]` (Holtzman et al. 2019, arXiv 1904.09751).
fn nucleus(probabilities: &Tensor, top_p: f64) -> Result<(Tensor, Tensor), TchError> {
    let vocab_size = probabilities.size()[1];
    let count = TOP_CANDIDATES.min(vocab_size);
    let (weights, token_ids) = probabilities.f_topk(count, 1, true, true)?;
    let reached = weights.f_cumsum(1, Kind::Double)?;
    let least = f64::try_from(&reached.f_select(1, count - 1)?.f_min()?)?;
    if least >= top_p || count == vocab_size {
        return Ok((inside(&weights, &reached, top_p)?, token_ids));
    }
    let (weights, token_ids) = probabilities.f_topk(vocab_size, 1, true, true)?;
    let reached = weights.f_cumsum(1, Kind::Double)?;
    Ok((inside(&weights, &reached, top_p)?, token_ids))
}

/// Weights of the tokens before which the running sum had not reached `top_p`; 0 for the others.
fn inside(weights: &Tensor, reached: &Tensor, top_p: f64) -> Result<Tensor, TchError> {
    weights.f_mul(&reached.f_sub(weights)?.f_lt(top_p)?)
}

/// The first index of each row at which the running sum exceeds `uniform` times the row's sum.
fn invert(weights: &Tensor, uniform: &Tensor) -> Result<Tensor, TchError> {
    let count = weights.size()[1];
    let running = weights.f_cumsum(1, Kind::Double)?;
    let targets = running.f_narrow(1, count - 1, 1)?.f_mul(uniform)?;
    targets.f_searchsorted(&running, false, true, "right", None::<Tensor>)?.f_clamp_max(count - 1)
}

/// A number in [0, 1) that is a function of its arguments: three rounds of SplitMix64's finaliser
/// (Steele, Lea and Flood 2014).
fn uniform(seed: u64, prompt_idx: usize, position: usize) -> f64 {
    let mut state = mix(seed);
    state = mix(state ^ prompt_idx as u64);
    state = mix(state ^ position as u64);
    // 48 bits: a product with a sum below 1 stays below that sum.
    (state >> 16) as f64 / (1_u64 << 48) as f64
}

fn mix(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
