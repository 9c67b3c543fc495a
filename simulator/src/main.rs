//! Runs schedules on all cores.
//!
//! ```text
//! pgweir-simulator                    ten million schedules, then every seeded mistake
//! pgweir-simulator SCHEDULES [FROM]   so many, from this seed on
//! pgweir-simulator trace SEED [BUG]   one schedule, line by line
//! pgweir-simulator find               every seeded mistake
//! pgweir-simulator find BUG           the first seed that shows a seeded mistake, line by line
//! ```

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use pgweir_simulator::simulation::{Bug, Outcome, run, trace};

/// Schedules of the full run.
const SCHEDULES: u64 = 10_000_000;
/// Schedules that a seeded mistake may survive: less than a minute of one core.
const SCHEDULES_TO_FIND: u64 = 1_000_000;
/// Seeds that a thread takes at once.
const BATCH: u64 = 1000;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        [] => run_all(0, SCHEDULES) && find_all(),
        ["trace", seed] => tell(seed.parse().ok(), Some(Bug::None)),
        ["trace", seed, bug] => tell(seed.parse().ok(), named(bug)),
        ["find"] => find_all(),
        ["find", bug] => match named(bug) {
            Some(bug) => tell(find(bug), Some(bug)),
            None => tell(None, None),
        },
        [schedules] => run_all(0, schedules.parse().unwrap_or(SCHEDULES)),
        [schedules, from, ..] => run_all(
            from.parse().unwrap_or(0),
            schedules.parse().unwrap_or(SCHEDULES),
        ),
    };
    if done {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn named(name: &str) -> Option<Bug> {
    let all = Bug::SEEDED.into_iter();
    all.chain([Bug::None])
        .find(|bug| format!("{bug:?}") == name)
}

/// Runs `count` seeds from `from` on; whether no promise was broken.
fn run_all(from: u64, count: u64) -> bool {
    let begun = Instant::now();
    let next = AtomicU64::new(from);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let sums: Vec<(Outcome, Option<u64>)> = thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| run_batches(&next, from + count)))
            .collect();
        let joined = handles.into_iter().map(|handle| handle.join());
        joined
            .map(|sum| sum.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut sum = Outcome::default();
    let mut broken = None;
    for (part, seed) in &sums {
        sum.add(part);
        broken = broken.or(*seed);
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{count} schedules in {seconds:.1} s on {threads} threads: {sum:?}");
    match broken {
        None => true,
        Some(seed) => {
            tell(Some(seed), Some(Bug::None));
            println!("seed {seed} breaks a promise: pgweir-simulator trace {seed}");
            false
        }
    }
}

fn run_batches(next: &AtomicU64, end: u64) -> (Outcome, Option<u64>) {
    let mut sum = Outcome::default();
    loop {
        let first = next.fetch_add(BATCH, Ordering::Relaxed);
        if first >= end {
            return (sum, None);
        }
        for seed in first..end.min(first + BATCH) {
            let outcome = run(seed, Bug::None);
            sum.add(&outcome);
            if outcome.violation.is_some() {
                next.store(end, Ordering::Relaxed);
                return (sum, Some(seed));
            }
        }
    }
}

/// Looks for every seeded mistake; whether all are found.
fn find_all() -> bool {
    let mut all = true;
    for bug in Bug::SEEDED {
        let begun = Instant::now();
        let found = find(bug);
        let seconds = begun.elapsed().as_secs_f64();
        match found {
            Some(seed) => {
                let how = run(seed, bug).violation.unwrap_or_default();
                println!("{bug:?}: seed {seed}, {seconds:.3} s: {how}");
            }
            None => println!("{bug:?}: NOT FOUND in {SCHEDULES_TO_FIND} schedules"),
        }
        all &= found.is_some();
    }
    all
}

fn find(bug: Bug) -> Option<u64> {
    (0..SCHEDULES_TO_FIND).find(|seed| run(*seed, bug).violation.is_some())
}

/// Prints the schedule of `seed`.
fn tell(seed: Option<u64>, bug: Option<Bug>) -> bool {
    let (Some(seed), Some(bug)) = (seed, bug) else {
        println!("no such seed or mistake; mistakes: {:?}", Bug::SEEDED);
        return false;
    };
    let (outcome, lines) = trace(seed, bug);
    println!("seed {seed}, {bug:?}");
    for line in lines {
        println!("{line}");
    }
    outcome.violation.is_none()
}
