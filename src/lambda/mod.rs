//! What a program does to be a Lambda function: events in, answers, log lines and metrics out.

pub(crate) mod metrics;

use std::error::Error;
use std::fmt::{Debug, Display};
use std::process::ExitCode;
use std::time::SystemTime;

use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use tracing::error;

use crate::remote::deadline::Deadline;

/// What became of an invocation.
pub trait Report {
    /// What the function answers.
    type Answer: Serialize;
    /// What an invocation fails with.
    type Error: Into<Diagnostic> + Debug + Display;

    /// What becomes of an invocation whose payload is not JSON, for this cause.
    fn not_json(cause: String) -> Self;

    /// The lines that count it, in CloudWatch's embedded metric format, for the function of this name.
    fn metrics(&self, function: &str, now: SystemTime) -> impl Iterator<Item = String>;

    /// The answer.
    ///
    /// # Errors
    /// Makes Lambda count, and perhaps repeat, the invocation as failed.
    fn into_answer(self) -> Result<Self::Answer, Self::Error>;
}

/// Hands `handle` one event after the other, each with the deadline before which it must have answered.
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

/// The process's end; why it could not start is logged.
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

/// A payload as it came. What is not JSON is kept as an error, so that it is told, logged and counted
/// as every other one is; the runtime would answer it by itself.
struct Payload(Result<Box<RawValue>, String>);

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Box::<RawValue>::deserialize(deserializer).map_err(|error| error.to_string())))
    }
}
