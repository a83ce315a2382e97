//! The radix tree of known pages and the lists of those that nobody holds. Everything is an index into vectors made at the
//! start: neither knowing nor forgetting a page allocates.

use std::hash::{BuildHasher, RandomState};

use falaj_model::PAGE_TOKENS;

use super::{Page, Parent};

/// Known pages by what they hold and what stands before them. Compared exactly: no collision shows one tenant another's text.
pub(super) struct Tree {
    nodes: Vec<Node>,
    /// The first node of each bucket; a power of two of them.
    buckets: Vec<Page>,
    hasher: RandomState,
    serials: u64,
}

#[derive(Clone, Copy)]
struct Node {
    known: bool,
    parent: Parent,
    tokens: [u32; PAGE_TOKENS],
    serial: u64,
    used_at: u64,
    next_in_bucket: Page,
    first_child: Page,
    next_sibling: Page,
    previous_sibling: Page,
}

const NONE: Page = Page::MAX;

const UNKNOWN: Node = Node {
    known: false,
    parent: Parent::Salt(0),
    tokens: [0; PAGE_TOKENS],
    serial: 0,
    used_at: 0,
    next_in_bucket: NONE,
    first_child: NONE,
    next_sibling: NONE,
    previous_sibling: NONE,
};

impl Tree {
    pub(super) fn new(pages: usize) -> Self {
        Self {
            nodes: vec![UNKNOWN; pages],
            buckets: vec![NONE; pages.next_power_of_two()],
            hasher: RandomState::new(),
            serials: 0,
        }
    }

    pub(super) fn find(&self, parent: Parent, tokens: &[u32; PAGE_TOKENS]) -> Option<Page> {
        let mut page = self.buckets[self.bucket(parent, tokens)];
        while let Some(node) = self.nodes.get(page as usize) {
            if node.parent == parent && node.tokens == *tokens {
                return Some(page);
            }
            page = node.next_in_bucket;
        }
        None
    }

    /// Makes `page`, which was not known, known after `parent`, which is.
    pub(super) fn insert(&mut self, page: Page, parent: Parent, tokens: &[u32; PAGE_TOKENS]) {
        let bucket = self.bucket(parent, tokens);
        self.serials += 1;
        let mut node = Node {
            known: true,
            parent,
            tokens: *tokens,
            serial: self.serials,
            next_in_bucket: self.buckets[bucket],
            ..UNKNOWN
        };
        self.buckets[bucket] = page;
        if let Parent::Page { page: before, .. } = parent {
            node.next_sibling = std::mem::replace(&mut self.nodes[before as usize].first_child, page);
            if let Some(sibling) = self.nodes.get_mut(node.next_sibling as usize) {
                sibling.previous_sibling = page;
            }
        }
        self.nodes[page as usize] = node;
    }

    /// Forgets a known page that no known page follows. Its serial stays, so that nothing is ever inserted after it.
    pub(super) fn remove(&mut self, page: Page) {
        let node = self.nodes[page as usize];
        assert!(node.known && node.first_child == NONE, "only leaves are removed");
        let bucket = self.bucket(node.parent, &node.tokens);
        if self.buckets[bucket] == page {
            self.buckets[bucket] = node.next_in_bucket;
        } else {
            let mut before = self.buckets[bucket];
            while self.nodes[before as usize].next_in_bucket != page {
                before = self.nodes[before as usize].next_in_bucket;
            }
            self.nodes[before as usize].next_in_bucket = node.next_in_bucket;
        }
        if let Some(next) = self.nodes.get_mut(node.next_sibling as usize) {
            next.previous_sibling = node.previous_sibling;
        }
        if let Some(previous) = self.nodes.get_mut(node.previous_sibling as usize) {
            previous.next_sibling = node.next_sibling;
        } else if let Parent::Page { page: before, .. } = node.parent {
            self.nodes[before as usize].first_child = node.next_sibling;
        }
        self.nodes[page as usize] = Node { serial: node.serial, ..UNKNOWN };
    }

    pub(super) fn is_known(&self, page: Page) -> bool {
        self.nodes.get(page as usize).is_some_and(|node| node.known)
    }

    pub(super) fn has_children(&self, page: Page) -> bool {
        self.nodes[page as usize].first_child != NONE
    }

    pub(super) fn parent(&self, page: Page) -> Parent {
        self.nodes[page as usize].parent
    }

    pub(super) fn serial(&self, page: Page) -> u64 {
        self.nodes.get(page as usize).map_or(0, |node| node.serial)
    }

    pub(super) fn touch(&mut self, page: Page, now: u64) {
        self.nodes[page as usize].used_at = now;
    }

    pub(super) fn used_at(&self, page: Page) -> u64 {
        self.nodes[page as usize].used_at
    }

    /// A page that follows `page`, directly or not, and that no page follows; `page` itself if none does.
    pub(super) fn last_descendant(&self, page: Page) -> Page {
        let mut last = page;
        while self.has_children(last) {
            last = self.nodes[last as usize].first_child;
        }
        last
    }

    /// All tokens from the root to the end of a known page, and the salt at the root.
    pub(super) fn text(&self, page: Page) -> (u64, Vec<u32>) {
        let (mut path, mut at) = (vec![page], page);
        let salt = loop {
            match self.parent(at) {
                Parent::Salt(salt) => break salt,
                Parent::Page { page: before, .. } => at = before,
            }
            path.push(at);
        };
        (salt, path.iter().rev().flat_map(|page| self.nodes[*page as usize].tokens).collect())
    }

    fn bucket(&self, parent: Parent, tokens: &[u32; PAGE_TOKENS]) -> usize {
        self.hasher.hash_one((parent, tokens)) as usize & (self.buckets.len() - 1)
    }
}

/// Pages in the order of their last use.
pub(super) struct IdleList {
    links: Vec<(Page, Page)>,
    first: Page,
    last: Page,
    len: usize,
}

impl IdleList {
    pub(super) fn new(pages: usize) -> Self {
        Self { links: vec![(NONE, NONE); pages], first: NONE, last: NONE, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The least recently used.
    pub(super) fn first(&self) -> Option<Page> {
        (self.first != NONE).then_some(self.first)
    }

    /// Puts `page` in its place: mostly last, having just been used, or among the first, what followed it having been evicted.
    pub(super) fn insert(&mut self, page: Page, used_at: impl Fn(Page) -> u64) {
        let time = used_at(page);
        let mut before = self.last;
        if before != NONE && used_at(before) > time {
            before = NONE;
            let mut next = self.first;
            while used_at(next) <= time {
                (before, next) = (next, self.links[next as usize].1);
            }
        }
        let next = if before == NONE { self.first } else { self.links[before as usize].1 };
        self.links[page as usize] = (before, next);
        *self.next_of(before) = page;
        *self.previous_of(next) = page;
        self.len += 1;
    }

    pub(super) fn remove(&mut self, page: Page) {
        let (before, next) = self.links[page as usize];
        *self.next_of(before) = next;
        *self.previous_of(next) = before;
        self.len -= 1;
    }

    fn next_of(&mut self, page: Page) -> &mut Page {
        if page == NONE { &mut self.first } else { &mut self.links[page as usize].1 }
    }

    fn previous_of(&mut self, page: Page) -> &mut Page {
        if page == NONE { &mut self.last } else { &mut self.links[page as usize].0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_keeps_the_order_of_use() {
        let times = [50, 10, 40, 20, 30];
        let mut list = IdleList::new(5);
        for page in 0..5 {
            list.insert(page, |page| times[page as usize]);
        }
        list.remove(2);
        let drained: Vec<_> = std::iter::from_fn(|| list.first().inspect(|page| list.remove(*page))).collect();
        assert_eq!((drained, list.len()), (vec![1, 3, 4, 0], 0));
    }
}
