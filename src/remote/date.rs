//! The date of an answer: the time by the clock of the service.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextRef;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::date_time::{DateTime, Format};

/// Keeps the date of the first answer to a call whose interceptor it is, in whole seconds.
#[derive(Clone, Debug, Default)]
pub struct Date(Arc<OnceLock<SystemTime>>);

// === impl Date ===

impl Date {
    /// The date; `None` without an answer, or without a date in it.
    #[must_use]
    pub fn get(&self) -> Option<SystemTime> {
        self.0.get().copied()
    }
}

impl Intercept for Date {
    fn name(&self) -> &'static str {
        "Date"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let date = date.and_then(|date| DateTime::from_str(date, Format::HttpDate).ok());
        if let Some(date) = date.and_then(|date| SystemTime::try_from(date).ok()) {
            let _ = self.0.set(date);
        }
        Ok(())
    }
}
