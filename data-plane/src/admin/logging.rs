//! `/logging`: levels shown and changed while serving.

use super::page::{Page, Params};
use super::proxy::Proxy;
use std::fmt::Write;

pub(super) fn page(proxy: &dyn Proxy, params: &Params) -> Page {
    for (key, value) in params.pairs() {
        let done = match key.as_str() {
            "level" => proxy.set_log_level(None, value),
            "paths" => value.split(',').filter(|part| !part.is_empty()).try_for_each(|part| {
                let (component, level) = part.split_once(':').ok_or("expected NAME:LEVEL".to_owned())?;
                proxy.set_log_level(Some(component), level)
            }),
            component => proxy.set_log_level(Some(component), value),
        };
        if let Err(reason) = done {
            return Page::bad(format!("error: {reason}\n{}", list(proxy)));
        }
    }
    Page::text(list(proxy))
}

fn list(proxy: &dyn Proxy) -> String {
    let mut out = String::from("active loggers:\n");
    for (component, level) in proxy.log_levels() {
        let _ = writeln!(out, "  {component}: {level}");
    }
    out.push('\n');
    out
}
