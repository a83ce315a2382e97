//! Who holds which page of the KV cache: reference counts, the prefix cache over full pages, eviction. It moves no data; the
//! values lie in `model::KvCache`. Pages of equal content under one salt are one page.

use std::collections::{BTreeMap, HashMap};

use falaj_model::PAGE_TOKENS;

/// A page of the cache.
pub type Page = u32;

/// What stands before a page: nothing but the tenant's salt, or another page (by a number that is never used again).
/// Keys compare it and the page's tokens exactly, so that no collision can show one tenant another's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Parent {
    Salt(u64),
    Page(u64),
}

/// All pages of one cache.
pub struct Pages {
    free: Vec<Page>,
    pages: Vec<Info>,
    known: HashMap<Key, Page>,
    /// Known pages that nobody holds, by the time they were let go: the least recent is evicted first.
    idle: BTreeMap<u64, Page>,
    clock: u64,
    serials: u64,
    prefix_cache: bool,
}

#[derive(Clone, Copy, Default)]
struct Info {
    holders: u32,
    known_as: Option<Key>,
    serial: u64,
    idle_since: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    parent: Parent,
    tokens: [u32; PAGE_TOKENS],
}

impl Pages {
    pub fn new(count: usize, prefix_cache: bool) -> Self {
        Self {
            free: (0..count as Page).rev().collect(),
            pages: vec![Info::default(); count],
            known: HashMap::with_capacity(if prefix_cache { count.min(1 << 16) } else { 0 }),
            idle: BTreeMap::new(),
            clock: 0,
            serials: 0,
            prefix_cache,
        }
    }

    pub fn total(&self) -> usize {
        self.pages.len()
    }

    /// Pages that can be had now: free, or only remembered.
    pub fn available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    /// Pages that sequences hold.
    pub fn used(&self) -> usize {
        self.total() - self.available()
    }

    /// Whether full pages are kept for others.
    pub fn remembers(&self) -> bool {
        self.prefix_cache
    }

    /// A page for one holder, its content undefined; evicts the least recently used known page if it must.
    pub fn allocate(&mut self) -> Option<Page> {
        let page = match self.free.pop() {
            Some(page) => page,
            None => {
                let (_, page) = self.idle.pop_first()?;
                self.forget(page);
                page
            }
        };
        self.pages[page as usize].holders = 1;
        Some(page)
    }

    /// The known page that holds `tokens` after `parent`, with one more holder.
    pub fn reuse(&mut self, parent: Parent, tokens: &[u32]) -> Option<Page> {
        let page = *self.known.get(&Key { parent, tokens: tokens.try_into().ok()? })?;
        let info = &mut self.pages[page as usize];
        if info.holders == 0 {
            self.idle.remove(&info.idle_since);
        }
        info.holders += 1;
        Some(page)
    }

    /// Makes the full page `page` known as `tokens` after `parent`. If its content was known already, the caller's page is
    /// let go and the known one takes its place: the numerics make them equal bit by bit. Returns the page to go on with.
    pub fn publish(&mut self, page: Page, parent: Parent, tokens: &[u32]) -> Page {
        let Ok(tokens): Result<[u32; PAGE_TOKENS], _> = tokens.try_into() else { return page };
        if !self.prefix_cache || self.pages[page as usize].known_as.is_some() {
            return page;
        }
        if let Some(known) = self.reuse(parent, &tokens) {
            self.release(page);
            return known;
        }
        self.serials += 1;
        let key = Key { parent, tokens };
        self.known.insert(key, page);
        let info = &mut self.pages[page as usize];
        info.known_as = Some(key);
        info.serial = self.serials;
        page
    }

    /// What a page after `page` names as its parent.
    pub fn as_parent(&self, page: Page) -> Parent {
        Parent::Page(self.pages[page as usize].serial)
    }

    /// One holder fewer. Holders release their last page first, so that a page is never evicted before those that follow it.
    pub fn release(&mut self, page: Page) {
        let info = &mut self.pages[page as usize];
        assert!(info.holders > 0, "a page is released once per holder");
        info.holders -= 1;
        if info.holders > 0 {
            return;
        }
        if info.known_as.is_some() {
            self.clock += 1;
            info.idle_since = self.clock;
            self.idle.insert(self.clock, page);
        } else {
            self.free.push(page);
        }
    }

    /// Forgets all content, after a failure that may have left pages half written. Holders keep theirs.
    pub fn forget_everything(&mut self) {
        for (_, page) in std::mem::take(&mut self.idle) {
            self.free.push(page);
        }
        self.known.clear();
        for info in &mut self.pages {
            info.known_as = None;
        }
    }

    fn forget(&mut self, page: Page) {
        if let Some(key) = self.pages[page as usize].known_as.take() {
            self.known.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(first: u32) -> Vec<u32> {
        (first..first + PAGE_TOKENS as u32).collect()
    }

    #[test]
    fn known_pages_are_shared_kept_and_evicted_in_order() {
        let mut pages = Pages::new(3, true);
        let root = Parent::Salt(7);
        let first = pages.allocate().unwrap();
        assert_eq!(pages.publish(first, root, &tokens(0)), first);
        let after = pages.as_parent(first);
        let second = pages.allocate().unwrap();
        pages.publish(second, after, &tokens(100));
        assert_eq!(pages.reuse(root, &tokens(0)), Some(first));
        assert_eq!(pages.used(), 2);
        for page in [second, first, first] {
            pages.release(page);
        }
        assert_eq!((pages.used(), pages.available()), (0, 3));

        // Another tenant, or another beginning, shares nothing.
        assert_eq!(pages.reuse(Parent::Salt(8), &tokens(0)), None);
        assert_eq!(pages.reuse(root, &tokens(1)), None);

        // One page is free, then the chain goes from its end.
        let free = pages.allocate().unwrap();
        assert!(free != first && free != second);
        assert_eq!(pages.allocate(), Some(second));
        assert_eq!(pages.reuse(after, &tokens(100)), None);
        assert_eq!(pages.reuse(root, &tokens(0)), Some(first));
        assert_eq!(pages.allocate(), None);
    }

    #[test]
    fn equal_content_becomes_one_page() {
        let mut pages = Pages::new(2, true);
        let (mine, yours) = (pages.allocate().unwrap(), pages.allocate().unwrap());
        let root = Parent::Salt(0);
        assert_eq!(pages.publish(mine, root, &tokens(0)), mine);
        assert_eq!(pages.publish(yours, root, &tokens(0)), mine);
        assert_eq!((pages.used(), pages.available()), (1, 1));
        pages.forget_everything();
        assert_eq!(pages.reuse(root, &tokens(0)), None);
        pages.release(mine);
        pages.release(mine);
        assert_eq!(pages.available(), 2);
    }

    #[test]
    fn without_a_prefix_cache_nothing_is_known() {
        let mut pages = Pages::new(1, false);
        let page = pages.allocate().unwrap();
        assert_eq!(pages.publish(page, Parent::Salt(0), &tokens(0)), page);
        pages.release(page);
        assert_eq!(pages.reuse(Parent::Salt(0), &tokens(0)), None);
    }
}
