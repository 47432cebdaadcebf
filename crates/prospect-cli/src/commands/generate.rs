//! `prospect generate`: replies of a model to prompts, through its chat
//! template where it has one.

use prospect_core::ExitCode;
use prospect_data::{ChatTokenizer, Content, Message, read_prompts};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::args::GenerateArgs;
use crate::error::CliError;
use crate::{output, worker_pipe};

use super::data::columns;

/// What a model is asked.
struct Prompt {
    content: Content,
    /// Further variables of the chat template.
    arguments: Map<String, Value>,
}

/// A prompt as the worker program reads it.
#[derive(Serialize)]
struct Question {
    prompt_ids: Vec<u32>,
}

/// What it answers.
#[derive(Deserialize)]
struct Answer {
    token_ids: Vec<u32>,
    finished: bool,
}

/// Prints replies as they come, `--samples` to each prompt.
pub fn run(args: &GenerateArgs) -> Result<ExitCode, CliError> {
    check(args)?;
    let tokenizer = ChatTokenizer::load(&args.model)?;
    let prompts = prompts(args, &tokenizer)?;
    let samples = args.samples as usize;
    let mut questions = Vec::with_capacity(prompts.len() * samples);
    for prompt in &prompts {
        for _ in 0..samples {
            questions.push(Question { prompt_ids: encode(&tokenizer, prompt)? });
        }
    }
    let arguments = worker_arguments(args, &tokenizer);
    worker_pipe::ask(&arguments, &questions, "generating", |idx, answer: Answer| {
        let ends = tokenizer.eos_token_ids();
        let own: Vec<u32> =
            answer.token_ids.iter().copied().filter(|id| !ends.contains(id)).collect();
        let reply = Reply {
            prompt: &prompts[idx / samples],
            completion: tokenizer.decode(&own)?,
            finished: answer.finished,
            num_tokens: own.len(),
        };
        reply.print(args)
    })?;
    Ok(ExitCode::Complete)
}

struct Reply<'a> {
    prompt: &'a Prompt,
    completion: String,
    finished: bool,
    num_tokens: usize,
}

impl Reply<'_> {
    fn print(&self, args: &GenerateArgs) -> Result<(), CliError> {
        let text = if args.json {
            let object = json!({
                "prompt": self.prompt.content,
                "completion": self.completion,
                "finished": self.finished,
                "num_tokens": self.num_tokens,
            });
            format!("{object}\n")
        } else {
            self.for_people(args.prompts.prompt.is_none())
        };
        output::print(&text)
    }

    /// The reply, below its prompt where that was not typed by hand.
    fn for_people(&self, with_prompt: bool) -> String {
        let cut = if self.finished { "" } else { " […]" };
        let reply = format!("{}{cut}\n", self.completion.trim());
        if !with_prompt {
            return reply;
        }
        let question = match &self.prompt.content {
            Content::Text(text) => text.as_str(),
            Content::Messages(messages) => {
                messages.last().and_then(Message::text).unwrap_or_default()
            }
        };
        format!("{} {question}\n{reply}\n", console::style(">").cyan().bold())
    }
}

fn check(args: &GenerateArgs) -> Result<(), CliError> {
    let refuse = |argument, found: f64, expected| {
        Err(CliError::Argument { argument, found: found.to_string(), expected })
    };
    if !(args.temperature.is_finite() && args.temperature >= 0.0) {
        return refuse("--temperature", args.temperature, "0 or above");
    }
    if !(args.top_p > 0.0 && args.top_p <= 1.0) {
        return refuse("--top-p", args.top_p, "above 0 and at most 1");
    }
    if args.samples > 1 && args.temperature == 0.0 {
        let samples = f64::from(args.samples);
        return refuse(
            "--samples",
            samples,
            "1 unless --temperature is above 0: greedy replies are all alike",
        );
    }
    Ok(())
}

fn prompts(args: &GenerateArgs, tokenizer: &ChatTokenizer) -> Result<Vec<Prompt>, CliError> {
    if let Some(file) = &args.prompts.data {
        let rows = read_prompts(std::slice::from_ref(file), &columns(&args.column)?)?;
        let prompt = |row: prospect_data::PromptRow| Prompt {
            content: row.prompt,
            arguments: row.arguments,
        };
        return Ok(rows.into_iter().map(prompt).collect());
    }
    let text = args.prompts.prompt.clone().unwrap_or_default();
    let content = match tokenizer.has_chat_template() {
        true => Content::question(text),
        false => Content::Text(text),
    };
    Ok(vec![Prompt { content, arguments: Map::new() }])
}

fn encode(tokenizer: &ChatTokenizer, prompt: &Prompt) -> Result<Vec<u32>, CliError> {
    Ok(tokenizer.encode_prompt_with(&prompt.content, &prompt.arguments)?)
}

fn worker_arguments(args: &GenerateArgs, tokenizer: &ChatTokenizer) -> Vec<String> {
    let mut arguments: Vec<String> = ["generate", "--model"].map(str::to_owned).into();
    arguments.push(args.model.display().to_string());
    for (name, value) in [
        ("--max-new-tokens", args.max_new_tokens.to_string()),
        ("--temperature", args.temperature.to_string()),
        ("--top-p", args.top_p.to_string()),
        ("--seed", args.seed.to_string()),
    ] {
        arguments.extend([name.to_owned(), value]);
    }
    let ends = tokenizer.eos_token_ids();
    if !ends.is_empty() {
        arguments.push("--eos".to_owned());
        arguments.extend(ends.iter().map(u32::to_string));
    }
    arguments.extend(worker_pipe::device_arguments(&args.device));
    arguments
}
