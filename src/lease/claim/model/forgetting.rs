//! What a state forgets: all that makes no difference any more. So there are finitely many states.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

// === impl World ===

impl World {
    /// Forgets details that no longer make a difference, and renumbers writes in their order.
    pub(super) fn forget(&mut self) {
        let Self { record, processes, .. } = self;
        // A record never comes back, only its absence does: a write over a changed record will be refused, which
        // gives no information.
        let fits =
            |write: &Write| write.expected.is_none() || is_same(write.expected.as_ref(), record.as_ref());
        for Process { claim, call, late, .. } in processes {
            let answered = matches!(call, Some(Call::Written(_)));
            let looked = match call {
                Some(Call::Looked(record)) => record.clone(),
                Some(Call::Writing(write)) if !fits(write) => {
                    *call = None;
                    None
                }
                _ => None,
            };
            late.retain(fits);
            let written = match call {
                Some(Call::Writing(write)) => Some(&write.record),
                _ => None,
            };
            let may_be_seen = |one: &Record| {
                let mut late = late.iter().map(|write| &write.record);
                let one = Some(one);
                [record.as_ref(), looked.as_ref(), written].into_iter().any(|seen| is_same(seen, one))
                    || late.any(|late| is_same(Some(late), one))
            };
            let longest = claim.long_ago();
            if let Some(Pending { record, asked, .. }) = &mut claim.pending
                && !answered
                && !may_be_seen(record)
            {
                (*asked, record.beat, record.epoch) = (longest, 0, 0);
            }
            let mine = claim.standing() == Standing::Mine;
            if let Some((seen, since)) = &mut claim.watched {
                match seen {
                    Some(seen) if !may_be_seen(seen) => {
                        // Whether it was its own stays known.
                        if seen.writer.as_ref() == Some(&claim.me.writer) {
                            claim.own.iter_mut().filter(|own| **own == seen.beat).for_each(|own| *own = 0);
                        }
                        (*since, seen.beat) = (longest, 0);
                    }
                    _ if mine => *since = longest,
                    _ => {}
                }
            }
        }
        let mut beats = BTreeMap::<String, BTreeSet<u64>>::new();
        self.each_record(&mut |record| {
            let writer = record.writer.clone().unwrap_or_default();
            beats.entry(writer).or_default().insert(record.beat);
        });
        self.each_record(&mut |record| {
            let beats = &beats[record.writer.as_deref().unwrap_or_default()];
            // 0 is a forgotten beat.
            record.beat = beats.range(..=record.beat).filter(|beat| **beat > 0).count() as u64;
        });
        for Process { claim, number, .. } in &mut self.processes {
            let none = BTreeSet::new();
            let beats = beats.get(&claim.me.writer).unwrap_or(&none);
            *number = beats.range(1..).count() as u64;
            // One that no record has will not be seen.
            let of_forgotten =
                |record: &Record| record.beat == 0 && record.writer.as_ref() == Some(&claim.me.writer);
            let shows_forgotten = claim.record().is_some_and(of_forgotten);
            claim.own.retain(|own| if *own == 0 { shows_forgotten } else { beats.contains(own) });
            claim.own.dedup();
            let rank = |own: u64| beats.range(..=own).filter(|beat| **beat > 0).count() as u64;
            claim.own.iter_mut().for_each(|own| *own = rank(*own));
        }
    }

    fn each_record(&mut self, visit: &mut dyn FnMut(&mut Record)) {
        self.record.iter_mut().for_each(&mut *visit);
        for Process { claim, call, late, .. } in &mut self.processes {
            if let Some((record, _)) = &mut claim.watched {
                record.iter_mut().for_each(&mut *visit);
            }
            if let Some(pending) = &mut claim.pending {
                visit(&mut pending.record);
            }
            let writing = match call {
                Some(Call::Looked(record)) => {
                    record.iter_mut().for_each(&mut *visit);
                    None
                }
                Some(Call::Writing(write)) => Some(write),
                None | Some(Call::Looking | Call::Written(_)) => None,
            };
            for write in writing.into_iter().chain(late) {
                write.expected.iter_mut().for_each(&mut *visit);
                visit(&mut write.record);
            }
        }
    }
}

// === impl Claim ===

impl Claim {
    /// A moment so long ago that an earlier one makes no difference.
    fn long_ago(&self) -> Moment {
        let longest = self.longest.max(self.in_force).max(self.terms.term);
        at(NOW.raw.saturating_sub(longest))
    }

    /// Its clock advances by this much, and still shows the same time: all else is this much longer ago. A moment a
    /// term ago is equal to any earlier one, and an ended lease is equal to one that was never held.
    pub(super) fn grow_older(&mut self, by: Duration) {
        let earlier = |moment: Moment| at(moment.raw.saturating_sub(by));
        let longest = self.long_ago().raw;
        let not_before = |moment: Moment| at(moment.raw.saturating_sub(by).max(longest));
        if let Some((_, since)) = &mut self.watched {
            *since = not_before(*since);
        }
        if let Some(Pending { asked, .. }) = &mut self.pending {
            *asked = not_before(*asked);
        }
        self.held = self.held.map(|Holding { epoch, until, ends, expires }| Holding {
            epoch,
            until: earlier(until),
            ends: earlier(ends),
            expires: earlier(expires),
        });
        self.held = self.held.filter(|held| !held.ends.may_have_come(NOW));
    }
}
