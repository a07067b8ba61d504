//! Names of a block's metrics: static for nearly all, owned for those only known at run time.

/// Names after the scope's prefix.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Names {
    Static(&'static [&'static str]),
    One(Box<str>),
}

impl Names {
    pub(super) const NONE: Self = Self::Static(&[]);

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Static(names) => names.len(),
            Self::One(_) => 1,
        }
    }

    pub(super) fn get(&self, index: usize) -> &str {
        match self {
            Self::Static(names) => names[index],
            Self::One(name) => name,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|i| self.get(i))
    }
}
