//! What the head does to one tile of logits, each in one walk over it.
//!
//! Legend: N completion tokens (rows), C tokens of the vocabulary in the tile.

use tch::{Kind, Tensor};

use super::{matrix, one};
use crate::checks::{Argument, Spec, refuse};
use crate::error::Result;
use crate::ffi;

/// Logits of some rows and a range of the vocabulary.
#[derive(Clone, Copy, Debug)]
pub struct HeadTile<'a> {
    /// f32 `[N, C]`, contiguous.
    pub logits: &'a Tensor,
    /// i64 `[N]`: each row's target, a token of the whole vocabulary.
    pub targets: &'a Tensor,
    /// The token of the first column.
    pub first_token: i64,
}

/// Takes a tile into the running `maximum`, the `sum` of exponentials relative to it, and the
/// `chosen` logit of the target (f32 `[N]` each; minus infinity, 0 and anything at first). The
/// normaliser of a row is `maximum + ln(sum)` after its last tile (Milakov and Gimelshein 2018,
/// arXiv 1805.02867).
///
/// # Errors
/// Arguments whose shape, type or device does not fit; libtorch's.
pub fn head_tile_visit(
    tile: HeadTile<'_>,
    maximum: &Tensor,
    sum: &Tensor,
    chosen: &Tensor,
) -> Result<()> {
    const OP: &str = "head_tile_visit";
    tile.check(OP, &[("maximum", maximum), ("sum", sum), ("chosen", chosen)])?;
    ffi::call(OP, |message| {
        let [logits, targets] = [tile.logits, tile.targets].map(Tensor::as_ptr);
        let [maximum, sum, chosen] = [maximum, sum, chosen].map(Tensor::as_ptr);
        // SAFETY: the tensors are defined, contiguous, outlive the call and fit each other.
        unsafe {
            ffi::prospect_fused_head_visit(
                logits,
                targets,
                tile.first_token,
                maximum,
                sum,
                chosen,
                message,
            )
        }
    })
}

/// The gradient of the logits for these coefficients of the targets' log-probabilities:
/// `(onehot − exp(logit − normalizer)) · coefficient`, `[N, C]` in the type of `like`. The tile's
/// logits may be overwritten.
///
/// # Errors
/// Arguments whose shape, type or device does not fit; libtorch's.
pub fn head_tile_gradient(
    tile: HeadTile<'_>,
    normalizers: &Tensor,
    coefficients: &Tensor,
    like: &Tensor,
) -> Result<Tensor> {
    const OP: &str = "head_tile_gradient";
    tile.check(OP, &[("normalizers", normalizers), ("coefficients", coefficients)])?;
    matrix(OP, "like", like)?;
    one(|out| {
        ffi::call(OP, |message| {
            let [logits, targets] = [tile.logits, tile.targets].map(Tensor::as_ptr);
            let [normalizers, coefficients] = [normalizers, coefficients].map(Tensor::as_ptr);
            // SAFETY: as above; only the type of `like` is read.
            unsafe {
                ffi::prospect_fused_head_gradient(
                    logits,
                    normalizers,
                    coefficients,
                    targets,
                    tile.first_token,
                    like.as_ptr(),
                    out,
                    message,
                )
            }
        })
    })
}

// === impl HeadTile ===

impl HeadTile<'_> {
    fn check(&self, op: &'static str, of_rows: &[(&'static str, &Tensor)]) -> Result<()> {
        let spec = matrix(op, "logits", self.logits)?;
        Argument::new(op, "logits", self.logits).contiguous()?;
        if spec.kind != Kind::Float {
            return refuse(op, "logits", format!("they are {spec}, but have to be Float"));
        }
        let of_row = Spec { size: vec![spec.size[0]], ..spec };
        let targets = Argument::new(op, "targets", self.targets);
        targets.contiguous()?;
        targets.expect_like(&Spec { kind: Kind::Int64, ..of_row.clone() }, "what fits the rows")?;
        for (name, tensor) in of_rows {
            let argument = Argument::new(op, name, tensor);
            argument.contiguous()?;
            argument.expect_like(&of_row, "what fits the rows")?;
        }
        Ok(())
    }
}
