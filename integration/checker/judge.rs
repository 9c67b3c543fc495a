//! Judges histories by values alone: linear passes, one for each promise.

use std::collections::HashMap;

use super::history::{Did, History, Outcome};

/// How many rows the ring has.
pub(crate) const RING: i64 = 5;

/// The lists as they were in the end, read from the primary when nothing was under way any more.
pub(crate) type Final = HashMap<i32, Vec<i32>>;

/// A promise that a history breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Broken {
    /// A read lacked what its own session had appended (P1).
    OwnWriteMissed,
    /// A list was shorter than the session had seen it (P2).
    ListWentBack,
    /// A row of the ring was older than what the session had seen in another, or in itself (P2).
    RingWentBack,
    /// A list was no beginning of what it was in the end.
    NoPrefix,
    /// An acknowledged append is not there in the end, or more than once.
    Lost,
}

/// One violation: which history, and the operation in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) client: usize,
    pub(crate) operation: usize,
    pub(crate) broken: Broken,
}

/// What was found in all histories together.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) reads: usize,
    pub(crate) appends: usize,
    /// Reads that ended with an error.
    pub(crate) refused: usize,
    /// Reads of the list that was just appended to, and how many of them lacked it.
    pub(crate) first_reads: usize,
    pub(crate) stale_first_reads: usize,
    pub(crate) violations: Vec<Violation>,
}

impl Verdict {
    /// How often these promises were broken.
    pub(crate) fn count(&self, promises: &[Broken]) -> usize {
        let found = self.violations.iter();
        found.filter(|v| promises.contains(&v.broken)).count()
    }
}

/// What one session is known to have written and seen.
#[derive(Default)]
struct Known {
    own: HashMap<i32, Vec<i32>>,
    lengths: HashMap<i32, usize>,
    ring: i64,
    fresh_append: Option<i32>,
}

/// Judges every history against what it says itself and against the end.
pub(crate) fn judge(histories: &[History], end: &Final) -> Verdict {
    let mut verdict = Verdict::default();
    for (client, history) in histories.iter().enumerate() {
        let mut known = Known::default();
        for (operation, step) in history.operations().iter().enumerate() {
            for broken in known.judge(&step.did, end, &mut verdict) {
                verdict.violations.push(Violation {
                    client,
                    operation,
                    broken,
                });
            }
        }
    }
    verdict
}

impl Known {
    fn judge(&mut self, did: &Did, end: &Final, verdict: &mut Verdict) -> Vec<Broken> {
        match did {
            Did::Append {
                list,
                value,
                outcome,
            } => {
                verdict.appends += 1;
                match outcome {
                    Outcome::Unknown => vec![],
                    Outcome::Acknowledged => {
                        self.own.entry(*list).or_default().push(*value);
                        self.fresh_append = Some(*list);
                        let times = end.get(list).map_or(0, |all| occurrences(all, *value));
                        found([(times != 1).then_some(Broken::Lost)])
                    }
                }
            }
            Did::List { list, elements } => self.judge_list(*list, elements, end, verdict),
            Did::Ring { row, number } => {
                verdict.reads += 1;
                let older = *number < least_in(*row, self.ring);
                self.ring = self.ring.max(*number);
                found([older.then_some(Broken::RingWentBack)])
            }
            Did::Refused { .. } => {
                verdict.refused += 1;
                vec![]
            }
        }
    }

    fn judge_list(
        &mut self,
        list: i32,
        elements: &[i32],
        end: &Final,
        verdict: &mut Verdict,
    ) -> Vec<Broken> {
        verdict.reads += 1;
        let own = self.own.get(&list).map_or(&[][..], Vec::as_slice);
        let missed = !own.iter().all(|value| elements.contains(value));
        if self.fresh_append == Some(list) {
            self.fresh_append = None;
            verdict.first_reads += 1;
            verdict.stale_first_reads += usize::from(missed);
        }
        let longest = self.lengths.entry(list).or_default();
        let shorter = elements.len() < *longest;
        *longest = elements.len().max(*longest);
        let in_the_end = end.get(&list).map_or(&[][..], Vec::as_slice);
        found([
            missed.then_some(Broken::OwnWriteMissed),
            shorter.then_some(Broken::ListWentBack),
            (!in_the_end.starts_with(elements)).then_some(Broken::NoPrefix),
        ])
    }
}

/// What a row of the ring holds at least where `seen` is visible: the single writer put its numbers
/// into the rows in turn, each when the one before was committed.
fn least_in(row: i64, seen: i64) -> i64 {
    seen - (seen - row).rem_euclid(RING)
}

fn found<const N: usize>(judged: [Option<Broken>; N]) -> Vec<Broken> {
    judged.into_iter().flatten().collect()
}

fn occurrences(list: &[i32], value: i32) -> usize {
    list.iter().filter(|element| **element == value).count()
}

#[test]
fn each_promise_can_be_seen_broken() {
    let append = |list, value| Did::Append {
        list,
        value,
        outcome: Outcome::Acknowledged,
    };
    let list = |elements: &[i32]| Did::List {
        list: 1,
        elements: elements.to_vec(),
    };
    let ring = |row, number| Did::Ring { row, number };
    let end = Final::from([(1, vec![10, 20, 30])]);
    for (steps, expected) in [
        (vec![append(1, 10), list(&[10]), list(&[10, 20])], vec![]),
        (
            vec![append(1, 20), list(&[10])],
            vec![Broken::OwnWriteMissed],
        ),
        (
            vec![list(&[10, 20]), list(&[10])],
            vec![Broken::ListWentBack],
        ),
        (vec![list(&[20])], vec![Broken::NoPrefix]),
        (vec![append(1, 40)], vec![Broken::Lost]),
        (vec![append(2, 10)], vec![Broken::Lost]),
        (
            vec![ring(2, 12), ring(3, 8), ring(1, 11), ring(2, 12)],
            vec![],
        ),
        (vec![ring(2, 12), ring(2, 7)], vec![Broken::RingWentBack]),
        (vec![ring(2, 12), ring(1, 6)], vec![Broken::RingWentBack]),
        (vec![ring(3, 3), ring(4, 4), ring(0, 0)], vec![]),
        (vec![ring(0, 5), ring(4, -1)], vec![Broken::RingWentBack]),
    ] {
        let mut history = History::default();
        for step in &steps {
            history.note(std::time::Instant::now(), step.clone(), None);
        }
        let found = judge(&[history], &end).violations;
        let found: Vec<Broken> = found.iter().map(|violation| violation.broken).collect();
        assert_eq!(found, expected, "{steps:?}");
    }
}
