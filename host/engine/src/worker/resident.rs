//! A loaded model on the engine thread: its sequences, and one step of them.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    Error, Finish, ModelStats,
    backend::BlockId,
    kv::BlockHash,
    loader::Loaded,
    models::{Capacity, Network},
    ready::Prefixes,
    residency::Lease,
    sampler::{self, REPEAT_WINDOW},
    scheduler::{Entry, Limits, Plan, Scheduler, SequenceId},
};

use super::{
    batch::BatchArrays,
    generation::{Generation, Next},
    job::{Job, QueuePlace, Reply, Score, Scores, Work},
};

/// A model's state; only the engine thread has it.
pub(crate) struct Resident {
    facts: Arc<Loaded>,
    network: Box<dyn Network>,
    capacity: Capacity,
    /// Blocks of before it slept.
    prefixes: Option<Prefixes>,
    scheduler: Scheduler,
    tasks: HashMap<SequenceId, Task>,
    batch: BatchArrays,
    steps: u64,
    prompt_tokens: u64,
    computed_tokens: u64,
    completion_tokens: u64,
}

/// What a model's cache is made of, and what is kept of an earlier one.
#[derive(Debug, Default)]
pub(crate) struct Cached {
    /// Names what besides tokens decides the content of a block.
    pub(crate) content: String,
    /// Blocks of that content.
    pub(crate) prefixes: Option<Prefixes>,
}

/// A model that the engine thread is done with.
pub(crate) struct Parts {
    /// With its cache.
    pub(crate) network: Box<dyn Network>,
    pub(crate) capacity: Capacity,
    /// Blocks in the cache, those used last first.
    pub(crate) cached: Vec<(BlockHash, BlockId)>,
    /// Blocks of before it slept the last time.
    pub(crate) prefixes: Option<Prefixes>,
}

/// What becomes of a sequence's results.
struct Task {
    arrived: Instant,
    /// Until its first step.
    place: Option<QueuePlace>,
    course: Course,
    /// Until its end, keeps the model awake.
    _lease: Option<Arc<Lease>>,
}

enum Course {
    Generate(Box<Generation>),
    Embed { sum: Vec<f32>, reply: Reply<Vec<f32>> },
    Score { score: Score, rows: Scores, reply: Reply<Scores> },
}

impl Resident {
    pub(crate) fn new(
        facts: Arc<Loaded>,
        network: Box<dyn Network>,
        capacity: Capacity,
        cached: Cached,
        sequences_max: usize,
    ) -> Self {
        let limits =
            Limits { sequences_max, batch_tokens_max: capacity.batch_tokens_max, blocks: capacity.blocks };
        Self {
            scheduler: Scheduler::new(limits, &cached.content),
            facts,
            network,
            capacity,
            prefixes: cached.prefixes,
            tasks: HashMap::new(),
            batch: BatchArrays::default(),
            steps: 0,
            prompt_tokens: 0,
            computed_tokens: 0,
            completion_tokens: 0,
        }
    }

    /// What callers know of it.
    pub(crate) fn facts(&self) -> &Arc<Loaded> {
        &self.facts
    }

    /// The forward pass, and what its cache holds.
    pub(crate) fn into_parts(self) -> Parts {
        let cached = self.scheduler.cached().collect();
        let Self { network, capacity, prefixes, .. } = self;
        Parts { network, capacity, cached, prefixes }
    }

    /// Ends every sequence as cancelled; what they computed stays cached.
    pub(super) fn cancel(&mut self) {
        for (id, task) in self.tasks.drain() {
            self.scheduler.remove(id);
            task.fail(&Error::Cancelled);
        }
    }

    /// Queues a job's sequence.
    pub(super) fn submit(&mut self, job: Job) {
        let (course, may_reuse) = match job.work {
            Work::Generate(generation) => (Course::Generate(generation), true),
            // These want a result of every token, so every token passes through a step.
            Work::Embed(reply) => (Course::Embed { sum: vec![0.0; self.network.width()], reply }, false),
            Work::Score { score, reply } => (Course::Score { score, rows: Vec::new(), reply }, false),
        };
        if may_reuse {
            self.restore(&job.prompt);
        }
        let id = self.scheduler.add(job.prompt, may_reuse);
        self.tasks
            .insert(id, Task { arrived: job.arrived, place: Some(job.place), course, _lease: job.lease });
    }

    /// Whether there is anything to compute.
    pub(super) fn is_busy(&self) -> bool {
        !self.tasks.is_empty()
    }

    /// Forgets abandoned sequences, computes one step of the others, and sends what it gave.
    pub(super) fn step(&mut self) -> Result<(), Error> {
        self.forget_abandoned();
        let began = Instant::now();
        let plan = self.scheduler.plan();
        if plan.entries.is_empty() {
            return Ok(());
        }
        self.note_starts(&plan, began);
        self.batch.fill(&plan, &self.scheduler);
        self.network.forward(self.batch.view());
        self.scheduler.commit(&plan);
        self.advance_generations(&plan, began)?;
        self.advance_embeddings(&plan)?;
        self.advance_scores(&plan)?;
        self.steps += 1;
        self.computed_tokens += plan.tokens as u64;
        Ok(())
    }

    /// Ends every sequence with an error.
    pub(super) fn fail(self, error: &Error) {
        self.tasks.into_values().for_each(|task| task.fail(error));
    }

    /// Its numbers for metrics.
    pub(super) fn stats(&self) -> ModelStats {
        let (kv_blocks_used, kv_blocks_total) = self.scheduler.blocks();
        ModelStats {
            name: self.facts.info.name.clone(),
            running: self.scheduler.running_count(),
            queued: self.scheduler.waiting_count(),
            kv_blocks_used,
            kv_blocks_total,
            steps: self.steps,
            prompt_tokens: self.prompt_tokens,
            computed_tokens: self.computed_tokens,
            completion_tokens: self.completion_tokens,
        }
    }

    /// Brings back what was kept of a prompt's beginning. A block that isn't as it was written is computed.
    fn restore(&mut self, prompt: &[u32]) {
        let Self { scheduler, network, prefixes: Some(prefixes), facts, .. } = self else { return };
        scheduler.restore(prompt, |hash, block| {
            let Some(bytes) = prefixes.get(hash) else { return false };
            let written = network.write_block(block, &bytes);
            if let Err(error) = &written {
                tracing::warn!(model = facts.info.name, %error, "can't restore a prefix");
            }
            written.is_ok()
        });
    }

    fn forget_abandoned(&mut self) {
        let scheduler = &mut self.scheduler;
        self.tasks.retain(|id, task| {
            let is_abandoned = task.is_abandoned();
            if is_abandoned {
                scheduler.remove(*id);
            }
            !is_abandoned
        });
    }

    /// Gives back the queue places of sequences that are in a batch for the first time.
    fn note_starts(&mut self, plan: &Plan, now: Instant) {
        for entry in &plan.entries {
            let task = self.tasks.get_mut(&entry.id).expect("every sequence has a task");
            if task.place.take().is_some() {
                let sequence = self.scheduler.running(entry.id).expect("a planned sequence runs");
                self.prompt_tokens += sequence.tokens().len() as u64;
                if let Course::Generate(generation) = &mut task.course {
                    generation.start(now - task.arrived, sequence.cached(), now);
                }
            }
        }
    }

    /// Draws the next token of every generation whose last token was computed, and charges the step
    /// to all of them.
    fn advance_generations(&mut self, plan: &Plan, began: Instant) -> Result<(), Error> {
        let Self { facts, network, scheduler, tasks, completion_tokens, .. } = self;
        let drawing: Vec<(u32, SequenceId)> = rows(plan)
            .filter(|(_, entry)| entry.is_last && matches!(tasks[&entry.id].course, Course::Generate(_)))
            .map(|(row, entry)| ((row + entry.tokens - 1) as u32, entry.id))
            .collect();
        let last_rows: Vec<u32> = drawing.iter().map(|(row, _)| *row).collect();
        let vocabulary = network.vocabulary();
        let logits = if last_rows.is_empty() { &[] } else { network.logits(&last_rows)? };
        let now = Instant::now();
        charge(plan, tasks, now - began);
        for ((_, id), logits) in drawing.iter().zip(logits.chunks_exact(vocabulary)) {
            let Course::Generate(generation) = &mut tasks.get_mut(id).expect("it draws").course else {
                unreachable!("only generations draw");
            };
            let tokens = scheduler.running(*id).expect("it was planned").tokens();
            let recent = &tokens[tokens.len().saturating_sub(REPEAT_WINDOW)..];
            let before = generation.completion_tokens();
            let next = generation.advance(logits, recent, &facts.tokenizer, now);
            *completion_tokens += u64::from(generation.completion_tokens() - before);
            match next {
                Ok(Next::Token(token)) => scheduler.push(*id, token),
                Ok(Next::End(finish)) => end(scheduler, tasks, *id, Ok(finish)),
                Err(error) => end(scheduler, tasks, *id, Err(error)),
            }
        }
        Ok(())
    }

    fn advance_embeddings(&mut self, plan: &Plan) -> Result<(), Error> {
        let course = |entry: &Entry| self.tasks.get(&entry.id).map(|task| &task.course);
        let is_embedding = |entry: &Entry| matches!(course(entry), Some(Course::Embed { .. }));
        if !plan.entries.iter().any(is_embedding) {
            return Ok(());
        }
        let width = self.network.width();
        let hidden = self.network.hidden(plan.tokens)?;
        for (row, entry) in rows(plan) {
            let Some(task) = self.tasks.get_mut(&entry.id) else { continue };
            let Course::Embed { sum, .. } = &mut task.course else { continue };
            if entry.start == 0 {
                // The first step, or the first after a preemption.
                sum.fill(0.0);
            }
            for state in hidden[row * width..][..entry.tokens * width].chunks_exact(width) {
                sum.iter_mut().zip(state).for_each(|(sum, x)| *sum += x);
            }
            if entry.is_last {
                self.scheduler.remove(entry.id);
                let task = self.tasks.remove(&entry.id).expect("it was seen above");
                let Course::Embed { sum, reply } = task.course else { unreachable!("it embeds") };
                // Whoever is gone doesn't miss the result.
                drop(reply.send(Ok(unit_length(sum))));
            }
        }
        Ok(())
    }

    fn advance_scores(&mut self, plan: &Plan) -> Result<(), Error> {
        let vocabulary = self.network.vocabulary();
        for (row, entry) in rows(plan) {
            let Some(task) = self.tasks.get_mut(&entry.id) else { continue };
            let Course::Score { score, rows, .. } = &mut task.course else { continue };
            let sequence = self.scheduler.running(entry.id).expect("it was planned");
            if entry.start == 0 {
                rows.clear();
            }
            let all: Vec<u32> = (row..row + entry.tokens).map(|row| row as u32).collect();
            for some in all.chunks(self.capacity.logits_rows_max) {
                let logits = self.network.logits(some)?;
                for logits in logits.chunks_exact(vocabulary) {
                    let next = sequence.tokens().get(rows.len() + 1);
                    rows.push(score.of(logits, next.copied()));
                }
            }
            if entry.is_last {
                self.scheduler.remove(entry.id);
                let task = self.tasks.remove(&entry.id).expect("it was seen above");
                let Course::Score { rows, reply, .. } = task.course else { unreachable!("it scores") };
                // Whoever is gone doesn't miss the result.
                drop(reply.send(Ok(rows)));
            }
        }
        Ok(())
    }
}

impl Task {
    fn fail(self, error: &Error) {
        // Whoever is gone doesn't miss the error.
        match self.course {
            Course::Generate(generation) => generation.finish(Err(error.clone())),
            Course::Embed { reply, .. } => drop(reply.send(Err(error.clone()))),
            Course::Score { reply, .. } => drop(reply.send(Err(error.clone()))),
        }
    }

    fn is_abandoned(&self) -> bool {
        match &self.course {
            Course::Generate(generation) => generation.is_abandoned(),
            Course::Embed { reply, .. } => reply.is_closed(),
            Course::Score { reply, .. } => reply.is_closed(),
        }
    }
}

impl Score {
    /// The numbers of a row of logits, which `next` follows.
    fn of(self, logits: &[f32], next: Option<u32>) -> Vec<(u32, f32)> {
        match self {
            Self::Top(count) => sampler::top_logits(logits, count),
            Self::Next => {
                next.map(|next| (next, sampler::logprobs(logits, next, 0).logprob)).into_iter().collect()
            }
        }
    }
}

/// Each entry with its first row.
fn rows(plan: &Plan) -> impl Iterator<Item = (usize, &Entry)> {
    let first_rows = plan.entries.iter().scan(0, |row, entry| {
        let first = *row;
        *row += entry.tokens;
        Some(first)
    });
    first_rows.zip(&plan.entries)
}

/// Divides a step's time among the generations in it by their tokens.
fn charge(plan: &Plan, tasks: &mut HashMap<SequenceId, Task>, elapsed: Duration) {
    for entry in &plan.entries {
        let task = tasks.get_mut(&entry.id).expect("every sequence has a task");
        if let Course::Generate(generation) = &mut task.course {
            generation.charge(elapsed.mul_f64(entry.tokens as f64 / plan.tokens as f64));
        }
    }
}

/// Ends a generation and frees its blocks.
fn end(
    scheduler: &mut Scheduler,
    tasks: &mut HashMap<SequenceId, Task>,
    id: SequenceId,
    end: Result<Finish, Error>,
) {
    scheduler.remove(id);
    if let Some(Task { course: Course::Generate(generation), .. }) = tasks.remove(&id) {
        generation.finish(end);
    }
}

fn unit_length(mut vector: Vec<f32>) -> Vec<f32> {
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|x| *x /= norm);
    }
    vector
}
