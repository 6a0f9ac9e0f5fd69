//! A loaded model on the engine thread: its sequences, and one step of them.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    Config, Error, Finish, ModelStats, Pooling,
    backend::{BlockId, StepClock, Top},
    format::MaskTimes,
    kv::BlockHash,
    loader::{Loaded, copy_blocks},
    models::{Capacity, Network},
    ready::{Bytes, Prefixes},
    residency::{DeviceId, Lease},
    sampler::{self, REPEAT_WINDOW},
    scheduler::{Entry, Limits, NewSequence, Plan, Scheduler, Sequence, SequenceId},
    tokenizer::Tokenizer,
};

use super::{
    batch::BatchArrays,
    generation::{Generation, Next, Row},
    job::{Job, QueuePlace, Reply, Score, Scores, Work},
};

/// Rows up to which a step checks guesses: beyond them it takes notably longer than a step of one.
const GUESS_ROWS_MAX: usize = 16;

/// A model's state; only the engine thread has it.
pub(crate) struct Resident {
    facts: Arc<Loaded>,
    network: Box<dyn Network>,
    /// The device's own, if it has one.
    clock: Arc<StepClock>,
    capacity: Capacity,
    /// Blocks of before it slept.
    prefixes: Option<Prefixes>,
    scheduler: Scheduler,
    tasks: HashMap<SequenceId, Task>,
    /// Of the step under way.
    plan: Plan,
    batch: BatchArrays,
    /// Rows of the step whose logits are wanted.
    logits_rows: Vec<u32>,
    steps: u64,
    prompt_tokens: u64,
    computed_tokens: u64,
    completion_tokens: u64,
    masks: MaskTimes,
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

/// Blocks of a cache that were copied out of it.
pub(crate) struct Copied {
    /// [`Network::cache_layout`]; without one nothing can be kept.
    pub(crate) layout: Option<String>,
    pub(crate) block_bytes: usize,
    pub(crate) blocks: Vec<(BlockHash, Bytes)>,
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
    Embed { pooling: Pooling, pooled: Vec<f32>, reply: Reply<Vec<f32>> },
    Score { score: Score, rows: Scores, reply: Reply<Scores> },
}

impl Resident {
    pub(crate) fn new(
        facts: Arc<Loaded>,
        network: Box<dyn Network>,
        capacity: Capacity,
        cached: Cached,
        config: &Config,
    ) -> Self {
        let limits = Limits {
            sequences_max: config.sequences_max,
            batch_tokens_max: capacity.batch_tokens_max,
            blocks: capacity.blocks,
            guess_rows_max: GUESS_ROWS_MAX.min(capacity.logits_rows_max),
            share_generated: !config.deterministic,
            whole_prompts: capacity.whole_sequences,
        };
        Self {
            scheduler: Scheduler::new(limits, &cached.content),
            facts,
            clock: network.clock(),
            network,
            capacity,
            prefixes: cached.prefixes,
            tasks: HashMap::new(),
            plan: Plan::default(),
            batch: BatchArrays::default(),
            logits_rows: Vec::new(),
            steps: 0,
            prompt_tokens: 0,
            computed_tokens: 0,
            completion_tokens: 0,
            masks: MaskTimes::default(),
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
        // All but a generation want a result of every token, so every token passes through a step.
        let (course, reuse, tokens_max) = match job.work {
            Work::Generate(generation) => {
                let tokens_max = generation.tokens_left();
                (Course::Generate(generation), true, tokens_max)
            }
            Work::Embed { pooling, reply } => {
                let pooling = pooling.unwrap_or(self.network.pooling());
                let pooled = vec![0.0; self.network.width()];
                (Course::Embed { pooling, pooled, reply }, false, 0)
            }
            Work::Score { score, reply } => (Course::Score { score, rows: Vec::new(), reply }, false, 0),
        };
        if reuse {
            self.restore(&job.prompt);
        }
        let new = NewSequence { prompt: job.prompt, tokens_max, caller: job.caller, reuse };
        let id = self.scheduler.add(new);
        let task = Task { arrived: job.arrived, place: Some(job.place), course, _lease: job.lease };
        self.tasks.insert(id, task);
    }

    /// Copies the blocks that prompts begin with, as far as they are in the cache and not on disk.
    pub(super) fn copy(&mut self, prompts: &[Vec<u32>]) -> Result<Copied, Error> {
        let Self { scheduler, network, prefixes, .. } = self;
        let is_kept = |hash: &BlockHash| prefixes.as_ref().is_some_and(|kept| kept.get(hash).is_some());
        let found: BTreeMap<_, _> = match network.cache_layout() {
            Some(_) => prompts.iter().flat_map(|prompt| scheduler.cached_of(prompt)).collect(),
            None => BTreeMap::new(),
        };
        let (blocks, hashes): (Vec<_>, Vec<_>) = found.into_iter().filter(|(_, hash)| !is_kept(hash)).unzip();
        let blocks = hashes.into_iter().zip(copy_blocks(&mut **network, &blocks)?).collect();
        Ok(Copied { layout: network.cache_layout(), block_bytes: network.block_bytes(), blocks })
    }

    /// Takes what is on disk of its cache now.
    pub(super) fn adopt(&mut self, prefixes: Prefixes) {
        self.prefixes = Some(prefixes);
    }

    /// Whether there is anything to compute.
    pub(super) fn is_busy(&self) -> bool {
        !self.tasks.is_empty()
    }

    /// Forgets abandoned sequences, computes one step of the others, and sends what it gave.
    pub(super) fn step(&mut self) -> Result<(), Error> {
        self.forget_abandoned();
        let began = Instant::now();
        let mut plan = mem::take(&mut self.plan);
        self.scheduler.plan(&mut plan);
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
        self.plan = plan;
        Ok(())
    }

    /// Whether its device is gone.
    pub(super) fn is_lost(&self) -> bool {
        self.network.is_lost()
    }

    /// Lets go of the model and says so, then ends every sequence with an error: who opens it then gets another.
    pub(super) fn fail(mut self, error: &Error, lost: impl FnOnce()) {
        let tasks = mem::take(&mut self.tasks);
        drop(self);
        lost();
        tasks.into_values().for_each(|task| task.fail(error));
    }

    /// Its numbers for metrics.
    pub(super) fn stats(&self, device: DeviceId) -> ModelStats {
        let (kv_blocks_used, kv_blocks_total) = self.scheduler.blocks();
        ModelStats {
            name: self.facts.info.name.clone(),
            device: device.0,
            running: self.scheduler.running_count(),
            queued: self.scheduler.waiting_count(),
            kv_blocks_used,
            kv_blocks_total,
            steps: self.steps,
            prompt_tokens: self.prompt_tokens,
            computed_tokens: self.computed_tokens,
            completion_tokens: self.completion_tokens,
            mask: self.masks.computing,
            mask_wait: self.masks.waiting,
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

    /// Draws the next tokens of every generation whose last token was computed, and charges the step
    /// to all of them.
    fn advance_generations(&mut self, plan: &Plan, began: Instant) -> Result<(), Error> {
        let decisive = self.decisive(plan);
        let mut wanted = mem::take(&mut self.logits_rows);
        wanted.clear();
        for (row, entry) in rows(plan).filter(|(_, entry)| self.draws(entry)) {
            let last = row + entry.tokens;
            wanted.extend((last - 1 - entry.guesses..last).map(|row| row as u32));
        }
        let drawn = Drawn::new(&mut *self.network, &wanted, decisive)?;
        self.logits_rows = wanted;
        let now = Instant::now();
        charge(plan, &mut self.tasks, self.clock.take().unwrap_or(now - began));
        let mut first = 0;
        for entry in &plan.entries {
            let Some(task) = self.tasks.get_mut(&entry.id).filter(|_| entry.is_last) else { continue };
            let Course::Generate(generation) = &mut task.course else { continue };
            let before = generation.completion_tokens();
            let of_entry = (first..first + 1 + entry.guesses).map(|index| drawn.row(index));
            first += 1 + entry.guesses;
            let ended = advance(generation, &mut self.scheduler, entry, of_entry, &self.facts.tokenizer, now);
            self.completion_tokens += u64::from(generation.completion_tokens() - before);
            let MaskTimes { computing, waiting } = generation.mask_times();
            self.masks.computing += computing;
            self.masks.waiting += waiting;
            if let Some(ended) = ended.transpose() {
                end(&mut self.scheduler, &mut self.tasks, entry.id, ended);
            }
        }
        Ok(())
    }

    /// How many of the largest logits are enough for everything that a step draws; `None` if something wants them all.
    fn decisive(&self, plan: &Plan) -> Option<usize> {
        let drawing = plan.entries.iter().filter(|entry| entry.is_last);
        let decisive = drawing.filter_map(|entry| match &self.tasks[&entry.id].course {
            Course::Generate(generation) => Some(generation.decisive()),
            _ => None,
        });
        decisive.reduce(|a, b| Some(a?.max(b?))).flatten()
    }

    /// Whether an entry's logits name a generation's next token.
    fn draws(&self, entry: &Entry) -> bool {
        entry.is_last && matches!(self.tasks[&entry.id].course, Course::Generate(_))
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
            let Course::Embed { pooling, pooled, .. } = &mut task.course else { continue };
            for (at, state) in hidden[row * width..][..entry.tokens * width].chunks_exact(width).enumerate() {
                pool(*pooling, entry.start + at, state, pooled);
            }
            if entry.is_last {
                self.scheduler.remove(entry.id);
                let task = self.tasks.remove(&entry.id).expect("it was seen above");
                let Course::Embed { pooled, reply, .. } = task.course else { unreachable!("it embeds") };
                // Whoever is gone doesn't miss the result.
                drop(reply.send(Ok(unit_length(pooled))));
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

/// What a step gave for the tokens that are drawn from it.
enum Drawn<'a> {
    Logits(&'a [f32], usize),
    Top(Vec<Top>),
}

impl<'a> Drawn<'a> {
    /// Reads some rows of the last batch, or the decisive logits of each where a device finds those itself.
    fn new(network: &'a mut dyn Network, rows: &[u32], decisive: Option<usize>) -> Result<Self, Error> {
        let vocabulary = network.vocabulary();
        if rows.is_empty() {
            // The middle of a prompt: its time is its own, too.
            network.wait()?;
            return Ok(Self::Logits(&[], vocabulary));
        }
        if let Some(count) = decisive
            && let Some(top) = network.top(rows, count)?
        {
            return Ok(Self::Top(top));
        }
        Ok(Self::Logits(network.logits(rows)?, vocabulary))
    }

    fn row(&self, index: usize) -> Row<'_> {
        match self {
            Self::Logits(logits, vocabulary) => Row::Logits(&logits[index * vocabulary..][..*vocabulary]),
            Self::Top(top) => Row::Top(&top[index]),
        }
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

/// Draws a generation's tokens from the logits of a step's last token and of the guesses after it: the
/// first, and each further one as long as the token before was the one guessed. So it draws what it would
/// have drawn step by step. Some finish when it ended.
fn advance<'a>(
    generation: &mut Generation,
    scheduler: &mut Scheduler,
    entry: &Entry,
    drawn: impl Iterator<Item = Row<'a>>,
    tokenizer: &Tokenizer,
    now: Instant,
) -> Result<Option<Finish>, Error> {
    let mut right = 0;
    for row in drawn {
        let tokens = running(scheduler, entry).tokens();
        let recent = &tokens[tokens.len().saturating_sub(REPEAT_WINDOW)..];
        match generation.advance(row, recent, tokenizer, now)? {
            Next::End(finish) => return Ok(Some(finish)),
            Next::Token(token) => scheduler.push(entry.id, token),
        }
        let sequence = running(scheduler, entry);
        let guess = sequence.guesses()[..entry.guesses].get(right);
        if guess != sequence.tokens().last() {
            break;
        }
        scheduler.accept(entry.id);
        right += 1;
    }
    generation.look_ahead();
    generation.learn(entry.guesses, right);
    let guesses = generation.guess(running(scheduler, entry).tokens()).to_vec();
    scheduler.guess(entry.id, guesses);
    Ok(None)
}

fn running<'a>(scheduler: &'a Scheduler, entry: &Entry) -> &'a Sequence {
    scheduler.running(entry.id).expect("a planned sequence runs")
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

/// Takes the state of the token at a position into an embedding.
fn pool(pooling: Pooling, position: usize, state: &[f32], pooled: &mut [f32]) {
    match pooling {
        Pooling::Mean if position > 0 => pooled.iter_mut().zip(state).for_each(|(sum, x)| *sum += x),
        Pooling::First if position > 0 => {}
        // The first token; after a preemption, too.
        _ => pooled.copy_from_slice(state),
    }
}

fn unit_length(mut vector: Vec<f32>) -> Vec<f32> {
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|x| *x /= norm);
    }
    vector
}
