//! What a run takes, told without running it.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{Called, call, config, prospect, scratch, write};

/// A run configuration over a model of this many blocks with the widths of an 8B one.
fn large(dir: &Path, num_layers: u32) -> String {
    let model = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": num_layers,
        "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5, "rope_theta": 5e5, "tie_word_embeddings": false,
        "vocab_size": 128_256,
    });
    write(dir, "large/config.json", &model.to_string());
    let text = format!(
        "[model]\npath = {:?}\n[data]\ntrain = [\"none.jsonl\"]\n[train]\nsteps = 10\n",
        dir.join("large")
    );
    write(dir, "large.toml", &text)
}

/// Plans without a worker program, which no figure needs.
fn plan(config: &str, more: &[&str]) -> Called {
    let mut command = prospect(&["plan", config]);
    call(command.args(more).env("PROSPECT_WORKER", "/nowhere/prospect-worker"))
}

fn json_of(called: &Called) -> Value {
    serde_json::from_str(&called.out).unwrap()
}

#[test]
fn a_plan_tells_memory_time_and_the_largest_microbatch() {
    let dir = scratch();
    let config = large(dir.path(), 16);
    let typed =
        ["--gpus", "8", "--gpu", "H200", "--prompt-tokens", "256", "--completion-tokens", "256"];
    let called = plan(&config, &[&typed[..], &["--set", "train.mode=sharded_optimizer"]].concat());
    called.check(0, &[]).printed(&[
        "4.5 G parameters, 16 blocks, bfloat16",
        "8 on GPUs, H200; sharded optimizer",
        "512 tokens on average, 256 of them completion",
        "optimizer",
        "the largest microbatch_tokens that fits is",
        "MFU",
        "10 steps",
        "half of the data sheet's peak, assumed",
    ]);
    let plan = json_of(&plan(&config, &[&typed[..], &["--json"]].concat()));
    assert_eq!(plan["memory_bytes"], 150_100_000_000_u64);
    assert_eq!(plan["setup"]["compute"], "bfloat16");
    assert!(plan["memory"]["device"]["peak"].as_u64() < plan["planned_bytes"].as_u64());
    assert!(plan["largest_microbatch_tokens"].as_u64() > plan["microbatch_tokens"].as_u64());
}

#[test]
fn rates_and_memory_are_taken_as_typed() {
    let dir = scratch();
    let config = large(dir.path(), 2);
    let of = |more: &[&str]| {
        let typed = ["--gpus", "2", "--json", "--prompt-tokens", "64", "--completion-tokens", "64"];
        json_of(&plan(&config, &[&typed[..], more].concat()))
    };
    let seconds = |plan: &Value| plan["time"]["forward_backward_seconds"].as_f64().unwrap();
    let [one, ten] = ["1e14", "1e15"].map(|rate| of(&["--flops-per-second", rate]));
    assert!((seconds(&one) / seconds(&ten) - 10.0).abs() < 1e-9);
    let slow = of(&["--link-gb-per-second", "1"]);
    assert!(slow["time"]["waiting_seconds"].as_f64() > one["time"]["waiting_seconds"].as_f64());
    assert_eq!(of(&["--gpu-memory", "64"])["memory_bytes"], 64_000_000_000_u64);
    // An elastic run needs memory for the fewest workers, and takes the time of the usual number.
    let elastic = of(&["--set", "coordinator.min_workers=1", "--set", "train.mode=fully_sharded"]);
    let usual = of(&["--set", "train.mode=fully_sharded"]);
    assert_eq!(elastic["time"], usual["time"]);
    let weights = |plan: &Value| plan["memory"]["device"]["weights"].as_u64().unwrap();
    assert!(weights(&elastic) > weights(&usual));
    let scored = of(&["--scored"]);
    assert_eq!(scored["memory"]["device"]["reference"], 0);
    assert!(scored["time"]["flops"].as_f64() < one["time"]["flops"].as_f64());
    let auto = of(&["--set", "train.microbatch_tokens=auto"]);
    assert_eq!(auto["microbatch_tokens"], 16 * 128, "all rows of a worker's step");
}

#[test]
fn what_does_not_fit_is_refused_with_what_would() {
    let dir = scratch();
    let config = large(dir.path(), 32);
    plan(&config, &["--gpus", "1", "--gpu", "H100"])
        .check(
            64,
            &[
                "the model does not fit",
                "76.5 GB can be planned with",
                "optimizer",
                "fully_sharded",
            ],
        )
        .printed(&["no microbatch fits"]);
    plan(&config, &["--gpus", "8", "--set", "train.mode=fully_sharded"]).check(0, &[]);
    let called = plan(&config, &["--gpus", "8", "--set", "train.microbatch_tokens=100"]);
    called.check(64, &["the longest training sequence has 1024 tokens: set it to 1024 or more"]);
    plan(&config, &["--gpu-memory=-1"]).check(64, &["--gpu-memory", "above 0"]);
    plan(&config, &["--gpu", "H1000"]).check(64, &["H1000", "name one of B200, "]);
    // Memory of a GPU plans with GPUs on any machine.
    plan(&config, &["--gpu-memory", "1000"]).check(0, &[]).printed(&["on GPUs, H100"]);
}

#[test]
fn lengths_are_those_of_the_data() {
    let dir = scratch();
    let (run, text) = (config(dir.path(), "run.toml"), large(dir.path(), 2));
    let model = std::fs::read_to_string(dir.path().join("large/config.json")).unwrap();
    write(dir.path(), "model/config.json", &model);
    let tokens = ["--run-dir", dir.path().to_str().unwrap(), "--json", "--gpus", "1"];
    let plan_of_data = json_of(&plan(&run, &tokens));
    assert_eq!(
        (plan_of_data["num_rows"].as_u64(), plan_of_data["num_steps"].as_u64()),
        (Some(4), Some(2))
    );
    assert_eq!(plan_of_data["workload"]["lengths"]["longest"], 5);
    assert_eq!(plan_of_data["lengths_from"], "of the data");
    // Without data they are as long as they may be, and the reason is told.
    let without = json_of(&plan(&text, &["--json", "--gpus", "1"]));
    assert_eq!(without["workload"]["lengths"]["longest"], 1024);
    let source = without["lengths_from"].as_str().unwrap();
    assert!(source.starts_with("data.max_length, half of it completion, since"), "{source}");
}
