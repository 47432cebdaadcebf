//! The workers of a run on this machine: started beside it, started again when
//! they die, and never left behind.

mod budget;
mod ended;
mod member;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use prospect_core::{Step, WorkerState};
use prospect_proto::RunStatus;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::devices;
use crate::error::CliError;

use budget::Budget;
pub use ended::Ended;
use ended::Verdict;
use member::Member;

/// How often the workers are looked at. One place to look at all of them; a worker lives for
/// seconds at least.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long workers have to go by themselves before they are asked to.
const ASK_AFTER: Duration = Duration::from_secs(1);
/// How long a process that was killed may take to be gone.
const KILL_WAIT: Duration = Duration::from_secs(1);

/// What the workers of a run have in common.
pub struct CrewOptions {
    /// How many there are.
    pub workers: u32,
    /// Where the coordinator listens.
    pub url: String,
    /// Device typed; `auto` gives each one GPU where there are any.
    pub device: String,
    /// GPUs of this machine.
    pub num_gpus: u32,
    /// Threads each computes with.
    pub threads: u32,
    /// Where their logs go.
    pub log_dir: PathBuf,
    /// How often workers that died are started again.
    pub max_restarts: u32,
}

/// Workers that were started.
pub struct Crew {
    options: CrewOptions,
    members: Vec<Member>,
    budget: Budget,
    news: VecDeque<News>,
    given_up: Vec<GivenUp>,
    last_death: Option<(Ended, Step)>,
    num_restarts: u64,
    num_done: u32,
    may_restart: bool,
}

/// A place that stays empty because of how its worker ended.
struct GivenUp {
    ended: Ended,
    is_used_up: bool,
}

/// What happened to a worker.
pub enum News {
    /// It died, and another process has taken its place.
    Restarted(Ended),
    /// Its place stays empty: no process would do better, or no restart is left.
    GivenUp(Ended),
    /// It ended in good order.
    Left,
}

impl Crew {
    /// Starts all of them.
    pub fn start(options: CrewOptions) -> Result<Self, CliError> {
        let members = (0..options.workers).map(|rank| Member::start(&options, rank));
        Ok(Self {
            members: members.collect::<Result<_, _>>()?,
            budget: Budget::new(options.max_restarts),
            options,
            news: VecDeque::new(),
            given_up: Vec::new(),
            last_death: None,
            num_restarts: 0,
            num_done: 0,
            may_restart: true,
        })
    }

    /// Waits until something happens, and sees to it that the dead are replaced. What was not
    /// waited for to the end is told by the next call. To be called from the main thread, whose
    /// end is the workers' end.
    pub async fn next(&mut self) -> News {
        loop {
            self.look();
            self.replace();
            if let Some(news) = self.news.pop_front() {
                return news;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// The run stands so: restarts that were a success are given back.
    pub fn stands_at(&mut self, status: &RunStatus) {
        let members = &self.members;
        self.budget.stands_at(status.step, |rank| {
            let mut running = members.iter().filter(|member| member.is_running());
            running.any(|member| member.rank == rank && takes_part(status, &member.name))
        });
    }

    /// From here on nobody is replaced: the run ends.
    pub fn stop_restarts(&mut self) {
        self.may_restart = false;
        self.members.iter_mut().for_each(Member::stay_empty);
    }

    /// Workers that are there or will be, and those that have done their work.
    pub fn num_able(&self) -> u32 {
        self.num_done + self.members.iter().filter(|member| member.is_filled()).count() as u32
    }

    /// Whether nobody is there and nobody will be.
    pub fn is_empty(&self) -> bool {
        !self.members.iter().any(Member::is_filled)
    }

    /// How many processes have taken another one's place.
    pub fn num_restarts(&self) -> u64 {
        self.num_restarts
    }

    /// The reason why workers are missing for good, as far as it can be told: the end of one that
    /// did not merely lose its peers.
    pub fn culprit(&self) -> Option<CliError> {
        let by_itself = self.given_up.iter().find(|place| !place.ended.lost_its_peers());
        let GivenUp { ended, is_used_up } = by_itself.or(self.given_up.first())?;
        let num_restarts = self.budget.max();
        Some(if *is_used_up && num_restarts > 0 {
            let (log, cause) = (ended.log.clone(), ended.to_error().to_string());
            CliError::RestartsUsedUp { num_restarts, cause, log }
        } else {
            ended.to_error()
        })
    }

    /// The last worker that died by itself, and the step at which the run stood.
    pub fn last_death(&self) -> Option<&(Ended, Step)> {
        self.last_death.as_ref()
    }

    /// Waits until all have ended, for `patience` at most. Those that have not are asked to after a
    /// second, since without a coordinator they can do nothing, and killed after all of the time.
    pub async fn end(&mut self, patience: Duration) {
        self.stop_restarts();
        let began = Instant::now();
        if !self.wait_until(began + patience.min(ASK_AFTER)).await {
            self.members.iter().for_each(|member| member.signal(Signal::TERM));
        }
        if self.wait_until(began + patience).await {
            return;
        }
        for member in self.members.iter().filter(|member| member.is_running()) {
            tracing::warn!(worker = member.name, "did not end in time and is killed");
            member.signal(Signal::KILL);
        }
        self.wait_until(Instant::now() + KILL_WAIT).await;
    }

    /// Whether all have ended by then.
    async fn wait_until(&mut self, deadline: Instant) -> bool {
        loop {
            self.look();
            if !self.members.iter().any(Member::is_running) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            sleep(LOOK_EVERY.min(deadline - Instant::now())).await;
        }
    }

    /// Sees who has ended and decides what follows.
    fn look(&mut self) {
        for member in &mut self.members {
            let Some(ended) = member.ended() else { continue };
            let verdict = ended.verdict();
            if verdict == Verdict::Died && !ended.lost_its_peers() {
                self.last_death = Some((ended.clone(), self.budget.step()));
            }
            self.num_done += u32::from(verdict == Verdict::Done);
            let is_used_up = match verdict {
                Verdict::Died if self.may_restart => match self.budget.spend(member.rank) {
                    Some(delay) => {
                        member.start_at(Instant::now() + delay, ended);
                        continue;
                    }
                    None => true,
                },
                Verdict::Lasting if self.may_restart => false,
                // When the run ends it does not matter how a worker does.
                _ => {
                    self.news.push_back(News::Left);
                    continue;
                }
            };
            self.given_up.push(GivenUp { ended: ended.clone(), is_used_up });
            self.news.push_back(News::GivenUp(ended));
        }
    }

    /// Starts those whose time has come.
    fn replace(&mut self) {
        let now = Instant::now();
        for member in &mut self.members {
            match member.start_if_due(&self.options, now) {
                None => {}
                Some((ended, Ok(()))) => {
                    self.num_restarts += 1;
                    self.news.push_back(News::Restarted(ended));
                }
                // The machine may be short of something that is there again in a while.
                Some((ended, Err(error))) => match self.budget.spend(member.rank) {
                    Some(delay) => {
                        tracing::warn!("{error}; {} is started again later", ended.name);
                        member.start_at(now + delay, ended);
                    }
                    None => {
                        let message = format!("{}; then {error}", ended.message);
                        let ended = Ended { message, ..ended };
                        self.given_up.push(GivenUp { ended: ended.clone(), is_used_up: true });
                        self.news.push_back(News::GivenUp(ended));
                    }
                },
            }
        }
    }
}

/// Whether the worker of this name has a place in the world.
fn takes_part(status: &RunStatus, name: &str) -> bool {
    // While a world forms no step is committed.
    let states = [WorkerState::Ready, WorkerState::Forming, WorkerState::Away];
    status.workers.iter().any(|worker| worker.worker.0 == name && states.contains(&worker.state))
}

impl CrewOptions {
    /// The device of the worker with this number.
    fn device_of(&self, rank: u32) -> String {
        devices::device_of(&self.device, self.num_gpus, rank)
    }
}
