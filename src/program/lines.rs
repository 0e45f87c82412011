//! Log lines that do not wait for their reader: a program whose log no one reads goes on. It drops lines, and counts
//! them.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::warn;

/// How many lines wait at most.
const MOST: usize = 256;
/// How long the program waits at its end until its last lines are written.
const AT_THE_END: Duration = Duration::from_secs(1);

/// How soon it is looked again whether an output that does not block has room.
const FULL: Duration = Duration::from_millis(50);

/// The lines that were dropped since the program started.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// The lines that wait for a thread that writes them. A write is one line.
#[derive(Clone, Default)]
pub struct Lines(Arc<Shared>);

/// Dropped, it waits until all lines are written, a second at most: the program is about to end.
pub struct LastLines(Lines);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    is_writing: bool,
}

/// Returns how many lines were dropped since the program started.
#[must_use]
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

// === impl Lines ===

impl Lines {
    /// Lines that a thread writes to `output`, which may block.
    #[must_use]
    pub fn to(output: impl Write + Send + 'static) -> (Self, LastLines) {
        let lines = Self::default();
        let own = lines.clone();
        thread::spawn(move || own.write_to(output));
        (lines.clone(), lines.last())
    }

    /// What waits for these lines when the program is about to end.
    #[must_use]
    pub fn last(&self) -> LastLines {
        LastLines(self.clone())
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_to(&self, mut output: impl Write) {
        let mut reported = 0;
        loop {
            let line = self.next(&mut reported);
            // There is no other place to report that the output is closed.
            let _ = write_whole(&mut output, &line);
        }
    }

    /// Waits for a line. Reports dropped lines when no line waits any more.
    fn next(&self, reported: &mut u64) -> Vec<u8> {
        let mut queue = self.queue();
        loop {
            if let Some(line) = queue.lines.pop_front() {
                queue.is_writing = true;
                return line;
            }
            let dropped = dropped();
            if dropped > *reported {
                drop(queue);
                // All of them: this line may be dropped as well.
                warn!(lines = dropped, "log lines were dropped since the start: nothing read the log");
                *reported = dropped;
                queue = self.queue();
                continue;
            }
            queue.is_writing = false;
            self.0.changed.notify_all();
            queue = self.0.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Writes a line, also to an output that does not block, which others may have set up so.
fn write_whole(output: &mut impl Write, mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        match output.write(line) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => line = &line[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(FULL),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    output.flush()
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut queue = self.queue();
        if queue.lines.len() < MOST {
            queue.lines.push_back(line.to_vec());
            self.0.changed.notify_all();
        } else {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// === impl LastLines ===

impl Drop for LastLines {
    fn drop(&mut self) {
        let is_left = |queue: &mut Queue| queue.is_writing || !queue.lines.is_empty();
        let _ = self.0.0.changed.wait_timeout_while(self.0.queue(), AT_THE_END, is_left);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, pipe};

    use super::*;

    #[test]
    fn lines_that_no_one_reads_are_dropped_and_the_others_arrive_in_order() {
        let (reader, writer) = pipe().unwrap();
        let (mut lines, last) = Lines::to(writer);
        // More than a pipe and the queue hold.
        let wide = "x".repeat(4000);
        let mut written = 0;
        while dropped() == 0 {
            lines.write_all(format!("{written} {wide}\n").as_bytes()).unwrap();
            written += 1;
        }
        let reader = thread::spawn(move || {
            let numbers = BufReader::new(reader).lines().map(|line| line.unwrap());
            let numbers = numbers.map(|line| line.split(' ').next().unwrap().to_owned());
            numbers.take_while(|number| number != "end").collect::<Vec<_>>()
        });
        drop(last);
        lines.write_all(b"end\n").unwrap();
        let expected: Vec<_> = (0..written - 1).map(|number| number.to_string()).collect();
        assert_eq!(reader.join().unwrap(), expected);
    }

    #[test]
    fn a_line_arrives_whole_where_the_output_does_not_block() {
        /// Takes a byte every other time.
        struct Full(bool, Vec<u8>);

        impl Write for Full {
            fn write(&mut self, text: &[u8]) -> io::Result<usize> {
                self.0 = !self.0;
                if self.0 {
                    return Err(ErrorKind::WouldBlock.into());
                }
                self.1.push(text[0]);
                Ok(1)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        let mut output = Full(false, Vec::new());
        write_whole(&mut output, b"a line\n").unwrap();
        assert_eq!(output.1, b"a line\n");
    }
}
