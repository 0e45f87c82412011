//! The event loop of a process that ends when its work has ended.

use std::io;

use tokio::runtime::Builder;

/// Runs the work on this thread. Does not wait afterwards for a thread that a call still blocks: name servers that do not
/// answer can hold one for half a minute.
///
/// # Errors
/// The system grants no event loop.
pub fn run<T>(work: impl Future<Output = T>) -> io::Result<T> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(work);
    runtime.shutdown_background();
    Ok(done)
}
