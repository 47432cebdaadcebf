//! How many numbers a model's segments hold, whole and on one rank.

use prospect_core::RunConfig;

use crate::ShapeError;
use crate::config::ModelConfig;
use crate::spec;

/// Elements that a parameter's place in a flat buffer is a multiple of, and a rank's share of it.
const ALIGNMENT: u64 = 64;

/// The segments of a model as flat buffers, in elements, and those of its reference.
#[derive(Clone, Debug, PartialEq)]
pub struct Parts {
    config: ModelConfig,
    num_parameters: u64,
    /// Embedding, blocks, final norm with the head if it is not the embedding.
    segments: Vec<u64>,
    /// The reference's, where it need not have the model's shape.
    reference: Option<Box<Parts>>,
}

impl Parts {
    /// The segments of a run's policy and of its reference, from `config.json` in their directories.
    ///
    /// # Errors
    /// A configuration that cannot be read or is of no model that is known.
    pub fn of_run(config: &RunConfig) -> Result<Self, ShapeError> {
        let parts = Self::new(&ModelConfig::read(&config.model.path)?);
        match &config.reference.path {
            Some(path) => Ok(parts.with_reference(&ModelConfig::read(path)?)),
            None => Ok(parts),
        }
    }

    /// The segments of a model of this shape, whose reference has the same.
    pub fn new(config: &ModelConfig) -> Self {
        let specs = spec::segments(config);
        let padded = |numel: u64| numel.next_multiple_of(ALIGNMENT);
        Self {
            config: config.clone(),
            num_parameters: specs.iter().flatten().map(spec::ParameterSpec::numel).sum(),
            segments: specs
                .iter()
                .map(|segment| segment.iter().map(|parameter| padded(parameter.numel())).sum())
                .collect(),
            reference: None,
        }
    }

    /// The same with a reference of this shape.
    pub fn with_reference(self, config: &ModelConfig) -> Self {
        Self { reference: Some(Box::new(Self::new(config))), ..self }
    }

    /// The segments of the reference.
    pub fn reference(&self) -> &Self {
        self.reference.as_deref().unwrap_or(self)
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Trained numbers; a head that is the embedding counts once.
    pub fn num_parameters(&self) -> u64 {
        self.num_parameters
    }

    /// Elements of all segments' buffers.
    pub fn whole(&self) -> u64 {
        self.segments.iter().sum()
    }

    /// Elements of each segment's buffer.
    pub fn segments(&self) -> &[u64] {
        &self.segments
    }

    /// Elements of a rank's shares of all buffers.
    pub fn share(&self, world_size: u32) -> u64 {
        let world_size = u64::from(world_size.max(1));
        let share = |len: &u64| len.div_ceil(world_size).next_multiple_of(ALIGNMENT);
        self.segments.iter().map(share).sum()
    }

    /// Elements of the segments whose weights one of `world_size` ranks saves: every
    /// `world_size`-th, of the rank with the most.
    pub fn saved(&self, world_size: u32) -> u64 {
        let world_size = (world_size as usize).clamp(1, self.segments.len());
        let of_rank = |rank: usize| self.segments.iter().skip(rank).step_by(world_size).sum();
        (0..world_size).map(of_rank).max().unwrap_or_default()
    }

    /// Elements of the largest block.
    pub fn largest_block(&self) -> u64 {
        self.segments[1..=self.config.num_layers].iter().copied().max().unwrap_or_default()
    }

    /// Elements of the largest segment.
    pub fn largest_segment(&self) -> u64 {
        self.segments.iter().copied().max().unwrap_or_default()
    }

    /// Elements of the first and the last segment, which a pass keeps from its first visit on.
    pub fn ends(&self) -> u64 {
        self.segments[0] + self.segments[self.config.num_layers + 1]
    }

    /// Elements of the head's weight.
    pub fn head(&self) -> u64 {
        (self.config.vocab_size * self.config.hidden_size) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FIXTURES, fixture, smollm2_135m};

    #[test]
    fn the_parameters_of_a_published_model_are_counted() {
        let parts = Parts::new(&smollm2_135m());
        assert_eq!(parts.num_parameters(), 134_515_008);
        assert_eq!(parts.segments().len(), 32);
        assert_eq!(parts.segments()[0], 49152 * 576);
        assert_eq!(parts.whole(), parts.num_parameters(), "all sizes are multiples of 64");
    }

    #[test]
    fn a_reference_has_its_own_shape() {
        let policy = ModelConfig::read(&fixture("smollm2")).unwrap();
        let parts = Parts::new(&policy);
        assert_eq!(parts.reference(), &parts);
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| fixture(name).display().to_string();
        let text = format!(
            "[model]\npath = {:?}\n[data]\ntrain = [\"x\"]\n[reference]\npath = {:?}\n",
            path("smollm2"),
            path("qwen2"),
        );
        let config = RunConfig::parse(&text, &[]).unwrap();
        let other = ModelConfig::read(&fixture("qwen2")).unwrap();
        let both = Parts::of_run(&config).unwrap();
        assert_eq!(both.config(), &policy);
        assert_eq!(both.reference(), &Parts::new(&other));
        let absent =
            RunConfig::parse(&text.replace(&path("qwen2"), &dir.path().display().to_string()), &[]);
        let error = Parts::of_run(&absent.unwrap()).unwrap_err();
        assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
    }

    #[test]
    fn ranks_save_segments_in_turn() {
        let parts = Parts::new(&smollm2_135m());
        let (embedding, block) = (parts.segments()[0], parts.segments()[1]);
        assert_eq!(parts.saved(1), parts.whole());
        // Segments 0, 8, 16 and 24 of 32; the last is the norm alone.
        assert_eq!(parts.saved(8), embedding + 3 * block);
        assert_eq!(parts.saved(1000), embedding, "more ranks than segments");
    }

    #[test]
    fn shares_cover_the_whole() {
        for name in FIXTURES {
            let parts = Parts::new(&ModelConfig::read(&fixture(name)).unwrap());
            for world_size in [1, 2, 3, 8, 1024] {
                let all = parts.share(world_size) * u64::from(world_size);
                assert!(all >= parts.whole(), "{name} on {world_size}");
                let padding = 64 * u64::from(world_size) * parts.segments().len() as u64;
                assert!(all <= parts.whole() + padding, "{name} on {world_size}");
            }
        }
    }
}
