//! The daemon's own log on standard error: lines of text, or of JSON as containerd's are.

use anyhow::{Context, Result};
use serde_json::{Map, Value};
use std::{fmt, io, time::SystemTime};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

/// Begins to log what is at least of `level`, or what `RUST_LOG` says.
///
/// # Errors
/// When `RUST_LOG` cannot be read.
pub(crate) fn begin(level: &str, json: bool) -> Result<()> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) => filter,
        // The transport's own tracing would bury the daemon's.
        Err(_) => format!("{level},h2=info,hyper=info,hyper_util=info,tower=info,tonic=info"),
    };
    let filter = EnvFilter::try_new(&filter).with_context(|| format!("log level {filter:?}"))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    if json {
        log.event_format(Json).init()
    } else {
        log.init()
    }
    Ok(())
}

/// Lines with `level`, `msg` and `time`, and the event's own fields beside them.
struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let level = match *event.metadata().level() {
            tracing::Level::WARN => "warning".to_owned(),
            level => level.as_str().to_lowercase(),
        };
        fields.0.insert("level".to_owned(), level.into());
        let now = crate::metadata::timestamp::format(SystemTime::now());
        fields.0.insert("time".to_owned(), now.into());
        writeln!(writer, "{}", Value::Object(fields.0))
    }
}

#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn insert(&mut self, field: &Field, value: Value) {
        let name = if field.name() == "message" { "msg" } else { field.name() };
        self.0.insert(name.to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.insert(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value.into());
    }
}
