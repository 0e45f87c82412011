//! The parts that make a program a Lambda function: events in, answers, log lines and metrics out.

pub mod metrics;

use std::env;
use std::error::Error;
use std::fmt::{Debug, Display};
use std::process::ExitCode;
use std::time::SystemTime;

use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use tracing::error;

use crate::program::VERSION;
use crate::remote::deadline::Deadline;

/// The result of an invocation.
pub trait Report {
    /// The function's answer.
    type Answer: Serialize;
    /// The error of a failed invocation.
    type Error: Into<Diagnostic> + Debug + Display;

    /// The result of an invocation whose payload is not JSON, for this cause.
    fn not_json(cause: String) -> Self;

    /// The lines that count the result, in CloudWatch's embedded metric format, for the function of this name.
    fn metrics(&self, function: &str, now: SystemTime) -> impl Iterator<Item = String>;

    /// The answer.
    ///
    /// # Errors
    /// The error that makes Lambda count the invocation as failed, and perhaps repeat it.
    fn into_answer(self) -> Result<Self::Answer, Self::Error>;
}

/// Passes `handle` one event after the other, each with the deadline of its answer.
///
/// # Errors
/// The Runtime API cannot be reached.
pub async fn serve<R: Report>(
    handle: impl AsyncFn(&str, Deadline) -> R,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    lambda_runtime::run(service_fn(async |event: LambdaEvent<Payload>| {
        let deadline = Deadline::before(event.context.deadline());
        let report = match event.payload.0 {
            Ok(json) => Box::pin(handle(json.get(), deadline)).await,
            Err(cause) => R::not_json(cause),
        };
        for line in report.metrics(&event.context.env_config.function_name, SystemTime::now()) {
            println!("{line}");
        }
        report.into_answer()
    }))
    .await
}

/// Whether the program was asked for its version alone, which is printed then with its name.
#[must_use]
pub fn says_version(program: &str) -> bool {
    let asked = env::args_os().nth(1).is_some_and(|argument| argument == "--version");
    if asked {
        println!("{program} {VERSION}");
    }
    asked
}

/// Returns the process's exit code, and logs why the function could not start.
#[must_use]
pub fn end(result: Result<(), Box<dyn Error + Send + Sync>>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(error = %error, "the function cannot start");
            ExitCode::FAILURE
        }
    }
}

/// A payload as it arrived. A payload that is not JSON is kept as an error, so that it is answered, logged and
/// counted like every other one; otherwise the runtime would answer it.
struct Payload(Result<Box<RawValue>, String>);

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Box::<RawValue>::deserialize(deserializer).map_err(|error| error.to_string())))
    }
}
