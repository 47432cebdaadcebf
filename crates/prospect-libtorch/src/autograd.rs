//! Vector-Jacobian products with given output gradients.

use std::ptr;

use tch::Tensor;

use crate::checks::{Argument, refuse};
use crate::error::Result;
use crate::ffi;

/// What becomes of the recorded graph after a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepGraph {
    /// It is freed; the graph can be used no more.
    No,
    /// It stays for another product.
    Yes,
}

/// The gradients of `inputs` for the gradients `grad_outputs` of `outputs`, without touching
/// any `.grad` field (`torch::autograd::grad`). `None` for an input that no output depends on.
///
/// Each output gradient has the shape, type and device of its output.
pub fn vjp(
    outputs: &[Tensor],
    inputs: &[Tensor],
    grad_outputs: &[Tensor],
    keep_graph: KeepGraph,
) -> Result<Vec<Option<Tensor>>> {
    const OP: &str = "vjp";
    if outputs.is_empty() {
        return refuse(OP, "outputs", "there is none");
    }
    if outputs.len() != grad_outputs.len() {
        let (outputs, found) = (outputs.len(), grad_outputs.len());
        let reason = format!("there are {found} for {outputs} outputs");
        return refuse(OP, "grad_outputs", reason);
    }
    for (output, grad_output) in outputs.iter().zip(grad_outputs) {
        let argument = Argument::new(OP, "outputs", output);
        let spec = argument.spec()?;
        if !output.requires_grad() {
            return argument.refuse(format!("the one that is {spec} has no graph"));
        }
        Argument::new(OP, "grad_outputs", grad_output).expect_like(&spec, "its output")?;
    }
    for input in inputs {
        let argument = Argument::new(OP, "inputs", input);
        let spec = argument.spec()?;
        if !input.requires_grad() {
            return argument.refuse(format!("the one that is {spec} requires no gradient"));
        }
    }
    if inputs.is_empty() {
        return Ok(Vec::new());
    }
    let mut gradients = vec![ptr::null_mut(); inputs.len()];
    let (outputs, grads) = (ffi::pointers(outputs), ffi::pointers(grad_outputs));
    let inputs = ffi::pointers(inputs);
    ffi::call(OP, |message| {
        // SAFETY: the lists hold defined tensors that outlive the call, as many as the counts
        // say, and `gradients` has a place for each input.
        unsafe {
            ffi::prospect_vjp(
                outputs.as_ptr(),
                grads.as_ptr(),
                outputs.len(),
                inputs.as_ptr(),
                inputs.len(),
                i32::from(keep_graph == KeepGraph::Yes),
                gradients.as_mut_ptr(),
                message,
            )
        }
    })?;
    let owned = |gradient: *mut torch_sys::C_tensor| {
        // SAFETY: the shim made this tensor for us, and nothing else holds it.
        (!gradient.is_null()).then(|| unsafe { Tensor::from_ptr(gradient) })
    };
    Ok(gradients.into_iter().map(owned).collect())
}

#[cfg(test)]
mod tests;
