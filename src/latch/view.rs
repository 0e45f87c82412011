//! Latches as a person's command sees them: what a watcher looks at, decided as a watcher decides, and no effect.

use std::time::Duration;

use futures_util::future::{join, join_all};

use super::config::{Config, HOLDS, KEYS, Latch};
use super::decide::{self, Next};
use super::dns::{NameServers, Transport};
use super::outcome::State;
use super::s3::S3;
use super::seen::{Object, Verdicts};

/// One latch as it is now.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The hold of each bucket.
    pub holds: Vec<Object>,
    /// The object of each bucket.
    pub keys: Vec<Object>,
    /// What the name servers say.
    pub said: Verdicts,
    /// How a watcher that looks now would find it: `would_lock` if a lock is due.
    pub state: State,
}

/// Sees these latches now.
pub async fn see(config: &Config, s3: &S3, name_servers: &NameServers, latches: &[&Latch]) -> Vec<Seen> {
    let names: Vec<_> = latches.iter().map(|latch| latch.name.as_str()).collect();
    let names = names.as_slice();
    let read = |prefix| join_all((0..config.buckets.len()).map(move |bucket| s3.read(bucket, prefix, names)));
    let objects = join(read(HOLDS), read(KEYS));
    let asked = join(name_servers.deciding(latches, Transport::Udp), name_servers.primaries(latches));
    let ((holds, keys), (said, primaries)) = join(objects, asked).await;
    let said = said.into_iter().zip(primaries).map(|(said, primary)| Verdicts { primary, ..said });
    let of = |at: usize, shown: &[super::s3::Shown]| -> Vec<Object> {
        shown.iter().map(|bucket| bucket.objects[at].clone()).collect()
    };
    let seen = said.enumerate().map(|(at, said)| {
        let (holds, keys) = (of(at, &holds), of(at, &keys));
        let state = decide::held(&holds).unwrap_or_else(|| {
            match decide::first(&holds, &keys, said, Duration::ZERO) {
                Next::End(state) => state,
                // A watcher adds what is missing.
                Next::Confirm if keys.iter().any(|key| key.stored().is_some()) => State::Half,
                Next::Confirm => State::WouldLock,
            }
        });
        Seen { holds, keys, said, state }
    });
    seen.collect()
}
