//! What memory is for.

/// What memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// libtorch itself; on a GPU its context and NCCL's buffers, which no allocator of tensors counts.
    Runtime,
    /// What libraries of matrix products work in, which on a GPU is counted with the tensors.
    Workspaces,
    /// The weights that passes compute with.
    Weights,
    /// Gradients, fp32.
    Gradients,
    /// AdamW's two moments, and what the weights that passes compute with lack of fp32; where they are
    /// offloaded fp32 weights.
    Optimizer,
    /// The reference's weights.
    Reference,
    /// Weights and gradients of blocks that are visited, where each worker holds its share.
    Gathered,
    /// What the blocks keep of a microbatch until its backward pass.
    Activations,
    /// What the backward pass of one block needs beside that.
    Backward,
    /// Tiles of logits, and the hidden states of completion tokens.
    Head,
    /// What a pass without gradient needs, which is not at the same time as the three above.
    Scoring,
    /// What the update needs beside the optimizer's state, when passes are done.
    Update,
    /// The copy that a checkpoint is written from.
    Checkpoint,
    /// Files that are read into a CPU's memory, as far as they count as the process's. They are mapped:
    /// beside a GPU the processes of a machine share them, and give them back for other uses.
    Loading,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 14] = [
        Self::Runtime,
        Self::Workspaces,
        Self::Weights,
        Self::Gradients,
        Self::Optimizer,
        Self::Reference,
        Self::Gathered,
        Self::Activations,
        Self::Backward,
        Self::Head,
        Self::Scoring,
        Self::Update,
        Self::Checkpoint,
        Self::Loading,
    ];

    /// Its name in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Runtime => "runtime",
            Self::Workspaces => "workspaces",
            Self::Weights => "weights",
            Self::Gradients => "gradients",
            Self::Optimizer => "optimizer",
            Self::Reference => "reference",
            Self::Gathered => "gathered",
            Self::Activations => "activations",
            Self::Backward => "backward",
            Self::Head => "head",
            Self::Scoring => "scoring",
            Self::Update => "update",
            Self::Checkpoint => "checkpoint",
            Self::Loading => "loading",
        }
    }
}
