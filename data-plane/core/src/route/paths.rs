//! The path index of one virtual host: which routes' path conditions hold, in list order, without asking each.
//!
//! Prefixes, exact paths and separated prefixes live in a radix tree, so the cost of a look-up follows the length
//! of the path and not the number of routes. Regexes are tried only while they could still win; many of them as
//! one set.

use crate::config::{PathMatch, Route};
use crate::matcher::Regex;
use smallvec::SmallVec;
use std::collections::BTreeMap;

/// From this many regexes on, they are matched as one set.
const SET_FROM: usize = 8;

/// Most bytes the set may take; a larger one is matched one by one.
const SET_SIZE_LIMIT: usize = 16 << 20;

/// Indexes the path conditions of a list of routes.
#[derive(Debug, Default)]
pub(super) struct PathIndex {
    sensitive: Tree,
    folded: Tree,
    regexes: Vec<(u32, Regex)>,
    /// All of `regexes` in order, if there are many and they fit.
    set: Option<regex::bytes::RegexSet>,
}

impl PathIndex {
    pub(super) fn build(routes: &[Route]) -> Self {
        let mut sensitive = BTreeMap::<Vec<u8>, Terminal>::new();
        let mut folded = BTreeMap::<Vec<u8>, Terminal>::new();
        let mut regexes = Vec::new();
        for (index, route) in routes.iter().enumerate() {
            let index = index as u32;
            let mut terminal = |text: &str, add: fn(&mut Terminal) -> &mut Vec<u32>| {
                let entry = if route.matches.case_sensitive {
                    sensitive.entry(text.as_bytes().to_vec()).or_default()
                } else {
                    folded.entry(text.to_ascii_lowercase().into_bytes()).or_default()
                };
                add(entry).push(index);
            };
            match &route.matches.path {
                PathMatch::Prefix(text) => terminal(text, |t| &mut t.prefix),
                PathMatch::Exact(text) => terminal(text, |t| &mut t.exact),
                PathMatch::Separated(text) => terminal(text, |t| &mut t.separated),
                PathMatch::Regex(regex) => regexes.push((index, regex.clone())),
            }
        }
        let set = (regexes.len() >= SET_FROM)
            .then(|| {
                let sources = regexes.iter().map(|(_, regex)| format!(r"\A(?:{})\z", regex.source()));
                regex::bytes::RegexSetBuilder::new(sources)
                    .size_limit(SET_SIZE_LIMIT)
                    .dfa_size_limit(SET_SIZE_LIMIT)
                    .build()
                    .ok()
            })
            .flatten();
        Self { sensitive: Tree::build(sensitive), folded: Tree::build(folded), regexes, set }
    }

    /// Routes whose path condition holds for `path` (without query), in list order.
    pub(super) fn candidates<'a>(&'a self, path: &'a [u8]) -> Candidates<'a> {
        let mut lists = Lists::new();
        self.sensitive.walk(path, |byte| byte, &mut lists);
        self.folded.walk(path, |byte| byte.to_ascii_lowercase(), &mut lists);
        Candidates { index: self, path, lists, next_regex: 0, set_hits: None }
    }
}

/// Ascending lists of route indexes that wait to be merged.
type Lists<'a> = SmallVec<[&'a [u32]; 12]>;

/// Route indexes in ascending order.
pub(super) struct Candidates<'a> {
    index: &'a PathIndex,
    path: &'a [u8],
    lists: Lists<'a>,
    /// Regexes before this one were tried.
    next_regex: usize,
    /// Regexes of the set that match and were not yet yielded, the next one last.
    set_hits: Option<Vec<usize>>,
}

impl Candidates<'_> {
    /// The next regex that matches and whose route comes before `bound`.
    fn regex_before(&mut self, bound: u32) -> Option<u32> {
        let regexes = &self.index.regexes;
        while let Some((route, regex)) = regexes.get(self.next_regex).filter(|(route, _)| *route < bound) {
            if let Some(set) = &self.index.set {
                let path = self.path;
                let hits = self.set_hits.get_or_insert_with(|| {
                    let mut hits: Vec<_> = set.matches(path).into_iter().collect();
                    hits.reverse();
                    hits
                });
                let &hit = hits.last().filter(|hit| regexes[**hit].0 < bound)?;
                hits.pop();
                return Some(regexes[hit].0);
            }
            self.next_regex += 1;
            if regex.is_full_match(self.path) {
                return Some(*route);
            }
        }
        None
    }
}

impl Iterator for Candidates<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let lowest = self.lists.iter().enumerate().map(|(at, list)| (list[0], at)).min();
        let bound = lowest.map_or(u32::MAX, |(route, _)| route);
        if let Some(route) = self.regex_before(bound) {
            return Some(route);
        }
        let (route, at) = lowest?;
        self.lists[at] = &self.lists[at][1..];
        if self.lists[at].is_empty() {
            self.lists.swap_remove(at);
        }
        Some(route)
    }
}

/// Routes that end at a node, while the tree is built.
#[derive(Debug, Default)]
struct Terminal {
    prefix: Vec<u32>,
    exact: Vec<u32>,
    separated: Vec<u32>,
}

/// Routes that end at a node: parts of `Tree::routes`, each ascending.
#[derive(Debug)]
struct Ends {
    prefix_at: u32,
    exact_at: u32,
    separated_at: u32,
    end: u32,
}

#[derive(Debug)]
struct Node {
    label_at: u32,
    label_len: u32,
    edges_at: u32,
    edges_len: u32,
    /// Index into `ends`, or `NONE`.
    ends: u32,
}

const NONE: u32 = u32::MAX;

/// A radix tree over byte strings. Nodes lie in one vector, and the edges of a node side by side.
#[derive(Debug, Default)]
struct Tree {
    nodes: Vec<Node>,
    labels: Vec<u8>,
    edges: Vec<(u8, u32)>,
    ends: Vec<Ends>,
    routes: Vec<u32>,
}

impl Tree {
    fn build(keys: BTreeMap<Vec<u8>, Terminal>) -> Self {
        let mut tree = Self::default();
        if keys.is_empty() {
            return tree;
        }
        let (keys, terminals): (Vec<_>, Vec<_>) = keys.into_iter().unzip();
        for terminal in terminals {
            let mut put = |list: Vec<u32>| {
                let at = tree.routes.len() as u32;
                tree.routes.extend(list);
                at
            };
            let (prefix_at, exact_at, separated_at) =
                (put(terminal.prefix), put(terminal.exact), put(terminal.separated));
            tree.ends.push(Ends { prefix_at, exact_at, separated_at, end: tree.routes.len() as u32 });
        }
        tree.nodes.push(Node::PENDING);
        // Work list rather than recursion: its depth is the configuration's to choose.
        let mut work = vec![(0_usize, 0..keys.len(), 0_usize)];
        while let Some((node, mut range, depth)) = work.pop() {
            // Keys are sorted: what the first and the last share, all share.
            let (first, last) = (&keys[range.start][depth..], &keys[range.end - 1][depth..]);
            let shared = first.iter().zip(last).take_while(|(a, b)| a == b).count();
            let (label_at, end) = (tree.labels.len() as u32, depth + shared);
            tree.labels.extend_from_slice(&first[..shared]);
            let mut ends = NONE;
            if keys[range.start].len() == end {
                ends = range.start as u32;
                range.start += 1;
            }
            let edges_at = tree.edges.len() as u32;
            while !range.is_empty() {
                let byte = keys[range.start][end];
                let group = keys[range.clone()].partition_point(|key| key[end] <= byte);
                let child = tree.nodes.len();
                tree.nodes.push(Node::PENDING);
                tree.edges.push((byte, child as u32));
                work.push((child, range.start..range.start + group, end));
                range.start += group;
            }
            tree.nodes[node] = Node {
                label_at,
                label_len: shared as u32,
                edges_at,
                edges_len: tree.edges.len() as u32 - edges_at,
                ends,
            };
        }
        tree
    }

    /// Collects the lists of all conditions that hold for `path`.
    fn walk<'a>(&'a self, path: &[u8], fold: impl Fn(u8) -> u8, lists: &mut Lists<'a>) {
        let Some(mut node) = self.nodes.first() else { return };
        let mut rest = path;
        loop {
            let label = &self.labels[node.label_at as usize..][..node.label_len as usize];
            let Some((head, tail)) = rest.split_at_checked(label.len()) else { return };
            if !head.iter().zip(label).all(|(a, b)| fold(*a) == *b) {
                return;
            }
            rest = tail;
            if node.ends != NONE {
                let ends = &self.ends[node.ends as usize];
                let mut add = |from: u32, to: u32| {
                    if from < to {
                        lists.push(&self.routes[from as usize..to as usize]);
                    }
                };
                add(ends.prefix_at, ends.exact_at);
                if rest.is_empty() {
                    add(ends.exact_at, ends.separated_at);
                }
                if matches!(rest.first(), None | Some(b'/')) {
                    add(ends.separated_at, ends.end);
                }
            }
            let Some(&byte) = rest.first() else { return };
            let byte = fold(byte);
            let edges = &self.edges[node.edges_at as usize..][..node.edges_len as usize];
            let Ok(at) = edges.binary_search_by_key(&byte, |(first, _)| *first) else { return };
            node = &self.nodes[edges[at].1 as usize];
        }
    }
}

impl Node {
    /// Replaced when its turn in the work list comes.
    const PENDING: Self = Self { label_at: 0, label_len: 0, edges_at: 0, edges_len: 0, ends: NONE };
}
