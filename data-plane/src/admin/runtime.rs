//! `/runtime` and `/runtime_modify`.

use super::page::{Page, Params};
use super::proxy::{Action, Proxy};
use crate::export::Knobs;
use serde_json::{Map, Value, json};

pub(super) fn page(proxy: &dyn Proxy) -> Page {
    let runtime = proxy.runtime();
    let layers = runtime.layers();
    let mut entries = Map::new();
    for value in runtime.values() {
        let mut by_layer = vec![Value::from(value.base.as_str())];
        if layers.len() > 1 {
            by_layer.push(value.admin.as_str().into());
        }
        let entry = json!({ "layer_values": by_layer, "final_value": value.in_force() });
        entries.insert(value.key, entry);
    }
    Page::json(&json!({ "layers": layers, "entries": entries }))
}

pub(super) fn modify(proxy: &dyn Proxy, params: &Params) -> Page {
    if params.pairs().is_empty() {
        return Page::bad(
            "usage: /runtime_modify?key1=value1&key2=value2&keyN=valueN\nuse an empty value to remove a previously added override\n",
        );
    }
    // An empty value takes one back.
    let set: Vec<_> = params.pairs().iter().filter(|(_, value)| !value.is_empty()).cloned().collect();
    if let Some((key, reason)) = Knobs::check(&set).first() {
        return Page::bad(format!("{key}: {reason}\n"));
    }
    match proxy.runtime().modify(params.pairs()) {
        Ok(()) => {
            proxy.act(Action::RuntimeChanged);
            Page::ok()
        }
        Err(error) => Page::error(http::StatusCode::SERVICE_UNAVAILABLE, format!("{error}")),
    }
}
