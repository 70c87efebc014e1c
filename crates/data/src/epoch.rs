//! The threads of an epoch.
//!
//! Batches are dealt to the workers in turn. A worker prepares a batch for each ticket it gets and sends it back over its own channel;
//! the consumer receives from the channels in the same turn, so that the order is fixed without sorting, and hands out one new ticket
//! for each batch it takes. `prefetch` tickets are under way at any time, which bounds every channel. A worker that dies closes its
//! channel, which the consumer sees as an error; a consumer that goes away closes the ticket channels, which ends the workers.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use crate::augment::Scratch;
use crate::batch::Batch;
use crate::error::{DataError, Result, one_line};
use crate::loader::Run;

/// The batches of one epoch, in order. Made by [`crate::Loader::epoch`]. Dropping it early stops its threads and waits for them (each
/// finishes at most the sample at hand).
pub struct Epoch {
    run: Arc<Run>,
    start: usize,
    next: usize,
    end: usize,
    workers: Vec<Worker>,
    scratch: Scratch,
    refused: Option<DataError>,
}

struct Worker {
    tickets: SyncSender<usize>,
    batches: Receiver<Result<Batch>>,
    thread: JoinHandle<()>,
}

impl Epoch {
    pub(crate) fn start(run: Run, start: usize) -> Self {
        let end = run.recipe.batches();
        let start = start.min(end);
        let mut epoch =
            Self { run: Arc::new(run), start, next: start, end, workers: Vec::new(), scratch: Scratch::default(), refused: None };
        let config = &epoch.run.recipe.config;
        let (ahead, threads) = (config.prefetch.min(end - start), config.workers);
        for number in 0..threads.min(ahead) {
            match Worker::start(epoch.run.clone(), number, ahead) {
                Ok(worker) => epoch.workers.push(worker),
                Err(error) => epoch.refused = Some(error),
            }
        }
        (start..start + ahead).for_each(|number| epoch.order(number));
        epoch
    }

    /// The worker whose turn batch `number` is.
    fn turn(&self, number: usize) -> usize {
        (number - self.start) % self.workers.len().max(1)
    }

    /// Has batch `number` made ahead of time, if there is someone to do it. A dead worker is noticed when its batch is due.
    fn order(&self, number: usize) {
        if let Some(worker) = self.workers.get(self.turn(number)).filter(|_| number < self.end) {
            let _ = worker.tickets.send(number);
        }
    }

    fn obtain(&mut self, number: usize) -> Result<Batch> {
        if let Some(error) = self.refused.take() {
            return Err(error);
        }
        let turn = self.turn(number);
        let Some(worker) = self.workers.get(turn) else {
            return self.run.prepare(number, &mut self.scratch);
        };
        match worker.batches.recv() {
            Ok(batch) => batch,
            Err(_) => Err(DataError::Worker { reason: self.workers.swap_remove(turn).epitaph() }),
        }
    }
}

impl Iterator for Epoch {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next == self.end {
            return None;
        }
        let number = self.next;
        let item = self.obtain(number);
        if item.is_err() {
            self.next = self.end;
            self.run.stop.store(true, Ordering::Relaxed);
        } else {
            self.next += 1;
            self.order(number + self.run.recipe.config.prefetch);
        }
        Some(item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let most = self.end - self.next;
        (most.min(1), Some(most))
    }
}

impl std::iter::FusedIterator for Epoch {}

impl Drop for Epoch {
    fn drop(&mut self) {
        self.run.stop.store(true, Ordering::Relaxed);
        self.workers.drain(..).for_each(|worker| drop(worker.epitaph()));
    }
}

impl Worker {
    /// `ahead` bounds what can ever wait in its channels, so that neither side blocks on sending.
    fn start(run: Arc<Run>, number: usize, ahead: usize) -> Result<Self> {
        let (tickets, wanted) = sync_channel::<usize>(ahead);
        let (done, batches) = sync_channel(ahead);
        let work = move || {
            let mut scratch = Scratch::default();
            while let Ok(number) = wanted.recv() {
                if run.stop.load(Ordering::Relaxed) || done.send(run.prepare(number, &mut scratch)).is_err() {
                    return;
                }
            }
        };
        let thread = Builder::new().name(format!("data-{number}")).spawn(work);
        let thread = thread.map_err(|error| DataError::Worker { reason: one_line(error) })?;
        Ok(Self { tickets, batches, thread })
    }

    /// Lets the thread end, waits for it and says what it died of, if it did not end by itself.
    fn epitaph(self) -> String {
        let Self { tickets, batches, thread } = self;
        drop((tickets, batches));
        thread.join().err().map_or_else(|| "it ended early".into(), |panic| one_line(message(panic.as_ref())))
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("it panicked")
}
