//! Work that does not depend on its neighbours, side by side, handed over in order.
//!
//! For small models one thread a point is faster than all threads for one point: a worker is a thread with a pool of one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};

use fd_distill::{Error, interrupt};
use rayon::ThreadPoolBuilder;

/// Does the items `range`, each with a worker's own state, and hands the results to `take` in the items' order, on the calling thread.
///
/// # Errors
/// The first error of any of the closures, and [`Error::Interrupted`]; what came before it in order has been taken.
pub fn in_order<W, T: Send>(
    range: std::ops::Range<usize>,
    make: impl Fn() -> Result<W, Error> + Sync,
    work: impl Fn(&mut W, usize) -> Result<T, Error> + Sync,
    mut take: impl FnMut(usize, T) -> Result<(), Error>,
) -> Result<(), Error> {
    let (next, stop) = (AtomicUsize::new(range.start), AtomicBool::new(false));
    let items = |results: &Sender<Result<(usize, T), Error>>| -> Result<(), Error> {
        let mut state = make()?;
        loop {
            let item = next.fetch_add(1, Ordering::Relaxed);
            if item >= range.end || stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            if let Some(signal) = interrupt::requested() {
                return Err(Error::Interrupted { signal, checkpoints: None });
            }
            // Nobody listens when another item has failed.
            let _ = results.send(Ok((item, work(&mut state, item)?)));
        }
    };
    let worker = |results: Sender<Result<(usize, T), Error>>| {
        let pool = ThreadPoolBuilder::new().num_threads(1).build();
        let pool = pool.map_err(|e| Error::Usage(format!("the thread of a worker cannot be made: {e}")));
        if let Err(e) = pool.and_then(|pool| pool.install(|| items(&results))) {
            let _ = results.send(Err(e));
        }
    };
    std::thread::scope(|scope| {
        let (send, receive) = channel();
        for _ in 0..rayon::current_num_threads().min(range.len()) {
            let results = send.clone();
            scope.spawn(|| worker(results));
        }
        drop(send);
        let (mut waiting, mut at, mut end) = (BTreeMap::new(), range.start, Ok(()));
        for result in receive {
            let taken = result.and_then(|(item, value)| {
                waiting.insert(item, value);
                while let Some(value) = waiting.remove(&at) {
                    take(at, value)?;
                    at += 1;
                }
                Ok(())
            });
            if taken.is_err() {
                stop.store(true, Ordering::Relaxed);
                end = end.and(taken);
            }
        }
        end
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_however_long_items_take() {
        let mut taken = vec![];
        let work = |calls: &mut usize, item: usize| {
            *calls += 1;
            std::thread::sleep(std::time::Duration::from_micros(((item * 7919) % 5) as u64 * 200));
            Ok(item * item)
        };
        let take = |item, value| {
            taken.push((item, value));
            Ok(())
        };
        rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap().install(|| in_order(3..60, || Ok(0), work, take)).unwrap();
        assert_eq!(taken, (3..60).map(|i| (i, i * i)).collect::<Vec<_>>());
        in_order(5..5, || -> Result<(), Error> { panic!("nothing to do") }, |(), _| Ok(()), |_, ()| Ok(())).unwrap();
    }

    #[test]
    fn the_first_error_ends_it() {
        let mut taken = vec![];
        let work = |(): &mut (), item| if item == 6 { Err(Error::Usage("six".into())) } else { Ok(item) };
        let take = |item, _| {
            taken.push(item);
            Ok(())
        };
        let e = in_order(0..1000, || Ok(()), work, take).unwrap_err();
        assert!(e.to_string() == "six" && taken.len() <= 6 && taken.is_sorted(), "{taken:?}");
        let e = in_order(0..9, || Err::<(), _>(Error::Usage("no state".into())), |(), i| Ok(i), |_, _| Ok(())).unwrap_err();
        assert_eq!(e.to_string(), "no state");
        let full = |_, _| Err(Error::Usage("disk full".into()));
        assert_eq!(in_order(0..9, || Ok(()), |(), i| Ok(i), full).unwrap_err().to_string(), "disk full");
    }
}
