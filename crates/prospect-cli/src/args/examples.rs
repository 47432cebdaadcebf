//! The examples at the end of each help text.

pub const PROSPECT: &str = "\
Examples:
  prospect doctor
  prospect data check feedback.jsonl --model ./model
  prospect train run.toml --workers 2
  prospect status http://127.0.0.1:7000 --watch
  prospect generate --model runs/run/final --prompt \"Why is the sky blue?\"

Exit codes: 0 complete, 64 bad configuration or usage, 65 corrupt data or checkpoint,
70 internal bug, 74 storage, 75 stopped on request (with a durable checkpoint once steps were done),
76 peer or coordinator lost, 93 not finite: running again would repeat it, 130 a second signal.";

pub const TRAIN: &str = "\
Examples:
  prospect train run.toml
  prospect train run.toml --workers 2 --run-dir runs/first --set train.steps=8
  prospect train run.toml --set objective.desirable_weight=auto --resume never

Ctrl-C saves a checkpoint and ends with exit code 75; the same command goes on from there.
A second Ctrl-C ends at once.";

pub const COORDINATOR: &str = "\
Examples:
  prospect coordinator run.toml --listen 0.0.0.0:7000 --workers 8 --run-dir /runs/first
  prospect worker --coordinator http://coordinator:7000

The address is printed on standard output once workers can join. SIGTERM saves a checkpoint and
ends with exit code 75; a second one ends at once.";

pub const WORKER: &str = "\
Examples:
  prospect worker --coordinator http://127.0.0.1:7000
  prospect worker --coordinator http://coordinator:7000 --device cuda:1

RANK or JOB_COMPLETION_INDEX say which rank the worker would like, POD_NAME its name, POD_IP or
PROSPECT_HOST where its peers reach it. The program prospect-worker is looked for beside this one,
or where PROSPECT_WORKER says. LOCAL_RANK picks the GPU, PROSPECT_BACKEND=gloo|nccl the process
group, PROSPECT_LOG what is logged.";

pub const STATUS: &str = "\
Examples:
  prospect status http://127.0.0.1:7000
  prospect status 127.0.0.1:7000 --watch
  prospect status http://127.0.0.1:7000 --json | jq .metrics.loss

With --watch the exit code tells how the run ended: 0 complete, 75 stopped, 76 failed or lost.";

pub const DATA_CHECK: &str = "\
Examples:
  prospect data check feedback.jsonl
  prospect data check 'logs/*.jsonl.gz' --model ./model --max-length 512
  prospect data check scores.parquet --column completion=response --label-threshold 0.5 --json

Exit code 65 when there are bad rows and --skip-bad-rows is not given.";

pub const EVAL: &str = "\
Examples:
  prospect eval --model runs/run/final --reference ./model --data held-out.jsonl
  prospect eval --model ./model --data held-out.jsonl --json

The whole file counts as one batch: completions are rotated by one over it for the KL estimate.";

pub const GENERATE: &str = "\
Examples:
  prospect generate --model ./model --prompt \"Why is the sky blue?\" --max-new-tokens 48
  prospect generate --model ./model --data prompts.jsonl --temperature 0.7 --samples 2 --json";

pub const DOCTOR: &str = "\
Examples:
  prospect doctor
  prospect doctor --model ./model --listen 0.0.0.0:7000";

pub const COMPLETIONS: &str = "\
Examples:
  prospect completions bash > ~/.local/share/bash-completion/completions/prospect
  prospect completions zsh > ~/.zfunc/_prospect";
