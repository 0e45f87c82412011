//! What a release would do, from what it reads before it begins.

use serde_json::{Map, Value, json};

use super::Release;
use crate::cli::error::Error;
use crate::cli::latch::Latches;
use crate::cli::latch::lock::done_in;
use crate::cli::latch::s3::Hands;
use crate::cli::timeline::Timeline;
use crate::latch::config::Latch;
use crate::latch::release::{Begin, begin};
use crate::latch::seen::Object;

/// Reads whether a release may begin, and returns the objects, and what it would do in each bucket.
pub(super) async fn would_release(
    latches: &Latches,
    latch: &Latch,
    force: bool,
    timeline: &mut Timeline,
) -> Result<(Vec<Object>, Map<String, Value>), Error> {
    let release = Release { latches, latch, hands: Hands::new(latches, "a release"), force, own: None };
    let (holds, keys, primary, _) = release.read().await;
    release.seen(&keys, primary, timeline);
    let begin = begin(&holds, &keys, primary, force).map_err(|stop| release.refused(&stop))?;
    let buckets = latches.config.buckets.iter().zip(&keys).enumerate().map(|(at, (bucket, key))| {
        let would = match &begin {
            Begin::TidyUp(left) if left.iter().any(|(bucket, _)| *bucket == at) => "would_delete_hold",
            Begin::Hold(_) if key.stored().is_some() => "would_delete",
            Begin::TidyUp(_) | Begin::Hold(_) => "absent",
        };
        (bucket.name.clone(), json!(would))
    });
    let buckets = buckets.collect();
    done_in(&buckets, timeline);
    Ok((keys, buckets))
}
