//! Runtime values: knobs by key that configuration refers to and that `/runtime_modify` changes while serving.
//!
//! Layers: the bootstrap's static ones, flattened, and the admin layer above them. Read on the request path by one
//! load and one lookup, and only for configuration that names a key.

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use std::sync::Arc;

/// All runtime values; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Runtime(Arc<ArcSwap<Snapshot>>);

/// The values at one moment.
#[derive(Clone, Debug, Default)]
struct Snapshot {
    base: Arc<HashMap<Box<str>, Box<str>>>,
    overrides: HashMap<Box<str>, Box<str>>,
    admin_layer: bool,
}

/// One key as `/runtime` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The key.
    pub key: String,
    /// In the static layers; empty when not there.
    pub base: String,
    /// In the admin layer; empty when not there.
    pub admin: String,
}

impl Value {
    /// The value that counts.
    pub fn in_force(&self) -> &str {
        if self.admin.is_empty() { &self.base } else { &self.admin }
    }
}

/// There is no admin layer, so that nothing can be modified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no admin layer specified")]
pub struct NoAdminLayer;

impl Runtime {
    /// The static layers in order, later values winning; `admin_layer`: whether [`Self::modify`] may be used.
    pub fn new(values: &[(String, String)], admin_layer: bool) -> Self {
        let runtime = Self::default();
        runtime.set_base(values, admin_layer);
        runtime
    }

    /// Replaces the static layers.
    pub fn set_base(&self, values: &[(String, String)], admin_layer: bool) {
        let base = Arc::new(values.iter().map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect());
        let overrides = self.0.load().overrides.clone();
        self.0.store(Arc::new(Snapshot { base, overrides, admin_layer }));
    }

    /// Sets values of the admin layer; an empty value removes one.
    ///
    /// # Errors
    /// There is no such layer.
    pub fn modify(&self, values: &[(String, String)]) -> Result<(), NoAdminLayer> {
        let mut next = Snapshot::clone(&self.0.load());
        if !next.admin_layer {
            return Err(NoAdminLayer);
        }
        for (key, value) in values {
            if value.is_empty() {
                next.overrides.remove(key.as_str());
            } else {
                next.overrides.insert(key.as_str().into(), value.as_str().into());
            }
        }
        self.0.store(Arc::new(next));
        Ok(())
    }

    /// A value as text.
    pub fn text(&self, key: &str) -> Option<Box<str>> {
        self.0.load().get(key).map(Into::into)
    }

    /// A share in millionths, as Envoy reads a fraction: a whole number is a percentage, and a message is flattened
    /// to `<key>.numerator` and `<key>.denominator`.
    pub fn per_million(&self, key: &str) -> Option<u32> {
        let snapshot = self.0.load();
        // Most have none, and requests ask.
        if snapshot.base.is_empty() && snapshot.overrides.is_empty() {
            return None;
        }
        if let Some(percent) = snapshot.get(key).and_then(|value| value.parse::<f64>().ok()) {
            return Some((percent * 10_000.0).clamp(0.0, 1e6) as u32);
        }
        let numerator: u64 = snapshot.get(&format!("{key}.numerator"))?.parse().ok()?;
        let per = match snapshot.get(&format!("{key}.denominator")).unwrap_or("HUNDRED") {
            "MILLION" => 1,
            "TEN_THOUSAND" => 100,
            _ => 10_000,
        };
        Some((numerator * per).min(1_000_000) as u32)
    }

    /// All values, by key.
    pub fn values(&self) -> Vec<Value> {
        let snapshot = self.0.load();
        let text = |map: &HashMap<Box<str>, Box<str>>, key: &str| map.get(key).map(|v| v.to_string());
        let keys: std::collections::BTreeSet<&str> =
            snapshot.base.keys().chain(snapshot.overrides.keys()).map(|k| &**k).collect();
        keys.into_iter()
            .map(|key| Value {
                key: key.into(),
                base: text(&snapshot.base, key).unwrap_or_default(),
                admin: text(&snapshot.overrides, key).unwrap_or_default(),
            })
            .collect()
    }

    /// Layers by name, lowest first.
    pub fn layers(&self) -> &'static [&'static str] {
        if self.0.load().admin_layer { &["base", "admin"] } else { &["base"] }
    }
}

impl Snapshot {
    fn get(&self, key: &str) -> Option<&str> {
        self.overrides.get(key).or_else(|| self.base.get(key)).map(|v| &**v)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.into(), value.into())
    }

    #[test]
    fn admin_values_win_until_removed() {
        let runtime = Runtime::new(&[pair("a", "1"), pair("a", "2")], true);
        assert_eq!(runtime.text("a").as_deref(), Some("2"));
        runtime.modify(&[pair("a", "3"), pair("b", "4")]).unwrap();
        assert_eq!(runtime.text("a").as_deref(), Some("3"));
        runtime.modify(&[pair("a", "")]).unwrap();
        assert_eq!(runtime.text("a").as_deref(), Some("2"));
        assert_eq!(runtime.values().len(), 2);
    }

    #[test]
    fn without_an_admin_layer_nothing_is_modified() {
        assert_eq!(Runtime::new(&[], false).modify(&[pair("a", "1")]), Err(NoAdminLayer));
    }

    #[test]
    fn fractions_are_percentages_or_flattened_messages() {
        let values = [
            pair("p", "12.5"),
            pair("m.numerator", "7"),
            pair("m.denominator", "TEN_THOUSAND"),
            pair("x", "no"),
        ];
        let runtime = Runtime::new(&values, true);
        assert_eq!(runtime.per_million("p"), Some(125_000));
        assert_eq!(runtime.per_million("m"), Some(700));
        assert_eq!((runtime.per_million("x"), runtime.per_million("absent")), (None, None));
    }
}
