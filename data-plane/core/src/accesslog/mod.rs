//! Log lines and log filters, compiled from configuration and evaluated over a [`Record`].
//!
//! Pure: who writes the lines, and when, is the caller's affair.

mod filter;
mod json;

pub use crate::headers::{Record, ResponseFlags};
pub use filter::Filter;

use crate::config::AccessLogFormat;
use crate::headers::format::Format;
use json::Json;

/// The format of a text log that names none (Envoy's default).
pub const DEFAULT_FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% \
     %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
     %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
     \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// Makes log lines.
#[derive(Clone, Debug)]
pub struct Renderer(Line);

#[derive(Clone, Debug)]
enum Line {
    Text(Format),
    Json(Json),
}

impl Renderer {
    /// Compiles a format.
    pub fn new(format: &AccessLogFormat) -> Self {
        Self(match format {
            AccessLogFormat::Text(format) => Line::Text(format.clone()),
            AccessLogFormat::Json { object, omit_empty } => Line::Json(Json::new(object, *omit_empty)),
        })
    }

    /// Appends a line, its end included.
    pub fn render(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        match &self.0 {
            Line::Text(format) => format.render(record, out),
            Line::Json(json) => {
                json.render(record, out);
                out.push(b'\n');
            }
        }
    }
}

#[cfg(test)]
mod tests;
