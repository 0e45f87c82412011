//! What `lambda_runtime` costs by itself: a function that answers `null`. Nothing to deploy.

use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde::de::IgnoredAny;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    run(service_fn(async |_: LambdaEvent<IgnoredAny>| Ok::<(), Error>(()))).await
}
