//! ATen's fused AdamW, the update of `torch.optim.AdamW`.

use tch::{Kind, Tensor};

use crate::checks::{Argument, refuse};
use crate::error::Result;
use crate::ffi;

/// The numbers of one update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWOptions {
    /// The learning rate of this step.
    pub lr: f64,
    /// The decay of the mean of the gradients.
    pub beta1: f64,
    /// The decay of the mean of the squared gradients.
    pub beta2: f64,
    /// Added to the root of the second mean.
    pub eps: f64,
    /// The decoupled weight decay: weights shrink by `lr · weight_decay` first.
    pub weight_decay: f64,
}

/// Updates `params` and both moments in place (Loshchilov & Hutter 2019, algorithm 2).
///
/// The lists are parallel, and every tensor has the shape, type and device of its parameter.
/// `steps` holds one f32 scalar a parameter, the number of this update counted from 1.
pub fn fused_adamw(
    params: &[Tensor],
    grads: &[Tensor],
    exp_avgs: &[Tensor],
    exp_avg_sqs: &[Tensor],
    steps: &[Tensor],
    options: &AdamWOptions,
) -> Result<()> {
    const OP: &str = "fused_adamw";
    options.validate(OP)?;
    let lists =
        [("grads", grads), ("exp_avgs", exp_avgs), ("exp_avg_sqs", exp_avg_sqs), ("steps", steps)];
    for (name, list) in lists {
        if list.len() != params.len() {
            let reason = format!("there are {} for {} parameters", list.len(), params.len());
            return refuse(OP, name, reason);
        }
    }
    for (idx, param) in params.iter().enumerate() {
        let spec = Argument::new(OP, "params", param).spec()?;
        for (name, list) in &lists[..3] {
            Argument::new(OP, name, &list[idx]).expect_like(&spec, "its parameter")?;
        }
        let argument = Argument::new(OP, "steps", &steps[idx]);
        let step = argument.spec()?;
        if step.kind != Kind::Float || step.numel() != 1 || step.device != spec.device {
            return argument
                .refuse(format!("it is {step}, but has to be one float on {:?}", spec.device));
        }
    }
    if params.is_empty() {
        return Ok(());
    }
    let [params, grads, exp_avgs, exp_avg_sqs, steps] =
        [params, grads, exp_avgs, exp_avg_sqs, steps].map(ffi::pointers);
    let options = ffi::AdamW {
        lr: options.lr,
        beta1: options.beta1,
        beta2: options.beta2,
        eps: options.eps,
        weight_decay: options.weight_decay,
    };
    ffi::call(OP, |message| {
        // SAFETY: the lists hold defined tensors that outlive the call and are of equal length.
        unsafe {
            ffi::prospect_fused_adamw(
                params.as_ptr(),
                grads.as_ptr(),
                exp_avgs.as_ptr(),
                exp_avg_sqs.as_ptr(),
                steps.as_ptr(),
                params.len(),
                &options,
                message,
            )
        }
    })
}

// === impl AdamWOptions ===

impl AdamWOptions {
    fn validate(&self, op: &'static str) -> Result<()> {
        let not_negative =
            [("lr", self.lr), ("eps", self.eps), ("weight_decay", self.weight_decay)];
        for (name, value) in not_negative {
            if !(value.is_finite() && value >= 0.0) {
                return refuse(op, name, format!("{value} is not a number from 0"));
            }
        }
        for (name, value) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(0.0..1.0).contains(&value) {
                return refuse(op, name, format!("{value} is not from 0 to below 1"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
