//! `/stats` and `/stats/prometheus`.

use super::page::{Content, Page, Params};
use super::proxy::Proxy;
use crate::stats::{Format, Kinds, Query};
use regex::Regex;

/// Longest `filter` compiled, in characters.
const MAX_FILTER: usize = 1024;

pub(super) fn page(proxy: &dyn Proxy, params: &Params, format: Option<Format>) -> Page {
    let format = match (format, params.get("format")) {
        (Some(format), _) => format,
        (None, None | Some("text")) => Format::Text,
        (None, Some("json")) => Format::Json,
        (None, Some("prometheus")) => Format::Prometheus,
        (None, Some(_)) => return Page::bad("usage: /stats?format=(json|prometheus|text)\n"),
    };
    let kinds = match params.get("type") {
        None | Some("All") => Kinds::All,
        Some("Counters") => Kinds::Counters,
        Some("Gauges") => Kinds::Gauges,
        Some("Histograms") => Kinds::Histograms,
        Some("TextReadouts") => Kinds::TextReadouts,
        Some(_) => return Page::bad("usage: /stats?type=(All|Counters|Gauges|Histograms|TextReadouts)\n"),
    };
    if params.get("histogram_buckets").is_some_and(|form| form != "summary") {
        return Page::bad("only histogram_buckets=summary is supported\n");
    }
    let filter = match params.get("filter").map(|text| (text.len(), Regex::new(text))) {
        None => None,
        Some((..=MAX_FILTER, Ok(regex))) => Some(regex),
        Some(_) => return Page::bad("Invalid re2 regex\n"),
    };
    let query = Query {
        filter,
        kinds,
        used_only: params.has("usedonly"),
        text_readouts: params.has("text_readouts"),
    };
    let content = if format == Format::Json { Content::Json } else { Content::Text };
    Page::pieces(content, proxy.metrics().render(format, query))
}
