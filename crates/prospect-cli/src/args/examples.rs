//! The examples at the end of each help text.

pub const PROSPECT: &str = "\
Examples:
  prospect doctor
  prospect data check feedback.jsonl --model ./model
  prospect plan run.toml
  prospect train run.toml --workers 2
  prospect score run.toml --workers 2
  prospect status http://127.0.0.1:7000 --watch
  prospect verify runs/run
  prospect generate --model runs/run/final --prompt \"Why is the sky blue?\"

Exit codes: 0 complete, 64 bad configuration or usage, 65 corrupt data or checkpoint,
70 internal bug, 74 storage, 75 stopped on request (with a durable checkpoint once steps were done),
76 peer or coordinator lost, 77 credentials refused, 93 not finite or no progress after restarts:
running again would repeat it, 130 a second signal.";

pub const TRAIN: &str = "\
Examples:
  prospect train run.toml
  prospect train run.toml --workers 2 --run-dir runs/first --set train.steps=8
  prospect train run.toml --set objective.desirable_weight=auto --resume never
  prospect train run.toml --workers 4 --min-workers 2 --max-restarts 20

A worker that dies is started again after 0.2 s, later after up to 5 s; the others keep their
weights and wait for it, or go on without it where --min-workers allows that. One that ends
because of its configuration (64), damaged data (65), storage (74), credentials (77) or because
running again would repeat it (93) is not started again, nor is one that was asked to end (75).
Restarts that are used up without progress end the run with exit code 93.

Ctrl-C or SIGTERM saves a checkpoint and ends with exit code 75; the same command goes on from
there, also after a run that was killed. A second one ends at once.";

pub const SCORE: &str = "\
Examples:
  prospect score run.toml --workers 2
  prospect score run.toml --set reference.cache_dir=/shared/values

Targets, evaluation data and the mismatched pairs of every step are scored under the reference
model. The values go to reference.cache_dir where that is set, and serve every run with the same
reference, type and tokens; else to the run directory, which must not hold a run that has begun.
What was computed is kept at once: after a kill the same command goes on.";

pub const PLAN: &str = "\
Examples:
  prospect plan run.toml
  prospect plan run.toml --measure --json
  prospect plan run.toml --gpus 64 --gpu H100 --set train.mode=fully_sharded
  prospect plan run.toml --gpus 8 --gpu-memory 141 --prompt-tokens 256 --completion-tokens 256

Nothing is run. Memory follows from the model's config.json and the configuration, time from rates: the
defaults are data sheets and assumptions (docs/performance.md), so give measured ones where there
are any. Exit code 64 when the run does not fit, with what would.";

pub const COORDINATOR: &str = "\
Examples:
  prospect coordinator run.toml --listen 0.0.0.0:7000 --workers 8 --run-dir /runs/first
  prospect coordinator run.toml --listen 0.0.0.0:7000 --workers 8 --min-workers 6 --max-workers 10
  prospect worker --coordinator http://coordinator:7000

The address is printed on standard output once workers can join. Ctrl-C or SIGTERM saves a
checkpoint and ends with exit code 75; a second one ends at once. A coordinator that died is
started again with the same command and the same port: its workers look for it for
coordinator.reconnect_timeout_seconds, keep their weights and go on.";

pub const WORKER: &str = "\
Examples:
  prospect worker --coordinator http://127.0.0.1:7000
  prospect worker --coordinator http://coordinator:7000 --device cuda:1

RANK or JOB_COMPLETION_INDEX say which rank the worker would like, POD_NAME its name, POD_IP or
PROSPECT_HOST where its peers reach it. The program prospect-worker is looked for beside this one,
or where PROSPECT_WORKER says. LOCAL_RANK picks the GPU, PROSPECT_BACKEND=gloo|nccl the process
group, PROSPECT_LOG what is logged.

Ctrl-C or SIGTERM leaves in good order with exit code 75: the run goes on with the others where
coordinator.min_workers allows that, else it stops with a checkpoint. A second one ends at once. A
worker that ended with exit code 70 or 76 or by a signal may be started again with the same command.";

pub const STATUS: &str = "\
Examples:
  prospect status http://127.0.0.1:7000
  prospect status 127.0.0.1:7000 --watch
  prospect status http://127.0.0.1:7000 --json | jq .metrics.loss

With --watch the exit code tells how the run ended: 0 complete, 75 stopped, 76 failed or lost.";

pub const VERIFY: &str = "\
Examples:
  prospect verify runs/first
  prospect verify runs/killed-often --against runs/undisturbed --json

Only files are read; the run may still be going on. What differs first is printed, and the exit code
is 65 where anything does, or where --against finds nothing to compare or a run that ended early.

Steps that equal numbers of workers have done are compared bit for bit; with train.reduction =
\"canonical\" all are. With \"fast\" losses are held to 1e-5 of each other for the 50 steps from the
first one on that other numbers of workers have done; what they differ by later is told. Steps that
were done again within a run must have the same rows and pairs; other bits are told.";

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
