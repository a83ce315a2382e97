//! Who holds which page of the KV cache: reference counts, the prefix cache over full pages, eviction. It moves no data; the
//! values lie in `model::KvCache`. The prefix cache is a radix tree whose edges are full pages: pages of equal content after
//! equal pages under one salt are one page. Leaves that nobody holds are evicted first, the least recently used before others.

mod tree;

use falaj_model::PAGE_TOKENS;

use tree::{IdleList, Tree};

/// A page of the cache.
pub type Page = u32;

/// What stands before a page: nothing but the tenant's salt, or another page (and a number that is never used again, so that a
/// page that was evicted and filled anew is not taken for what it was).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Parent {
    Salt(u64),
    Page { page: Page, serial: u64 },
}

/// All pages of one cache.
pub struct Pages {
    free: Vec<Page>,
    pages: Vec<Info>,
    tree: Tree,
    /// Known pages that nobody holds: those that no known page follows, and those that one does. The latter come only of
    /// sequences that gave pages back behind their window.
    leaves: IdleList,
    inner: IdleList,
    clock: u64,
    prefix_cache: bool,
}

#[derive(Clone, Copy, Default)]
struct Info {
    holders: u32,
    stored: bool,
}

impl Pages {
    pub fn new(count: usize, prefix_cache: bool) -> Self {
        let known = if prefix_cache { count } else { 0 };
        Self {
            free: (0..count as Page).rev().collect(),
            pages: vec![Info::default(); count],
            tree: Tree::new(known),
            leaves: IdleList::new(known),
            inner: IdleList::new(known),
            clock: 0,
            prefix_cache,
        }
    }

    pub fn total(&self) -> usize {
        self.pages.len()
    }

    /// Pages that can be had now: free, or only remembered.
    pub fn available(&self) -> usize {
        self.free.len() + self.leaves.len() + self.inner.len()
    }

    /// Pages that somebody holds.
    pub fn used(&self) -> usize {
        self.total() - self.available()
    }

    /// Whether full pages are kept for others.
    pub fn remembers(&self) -> bool {
        self.prefix_cache
    }

    pub fn holders(&self, page: Page) -> u32 {
        self.pages[page as usize].holders
    }

    /// The known page that [`Pages::allocate`] would give up, if it has to give one up.
    pub fn victim(&self) -> Option<Page> {
        if !self.free.is_empty() {
            return None;
        }
        self.leaves.first().or_else(|| self.inner.first())
    }

    /// A page for one holder, its content undefined; evicts the least recently used known page if it must.
    pub fn allocate(&mut self) -> Option<Page> {
        let page = match self.free.pop() {
            Some(page) => page,
            None => {
                let page = self.victim()?;
                self.forget(page);
                // Forgetting made it free.
                self.free.pop()?
            }
        };
        self.pages[page as usize] = Info { holders: 1, stored: false };
        Some(page)
    }

    /// The known page that holds `tokens` after `parent`, with one more holder.
    pub fn reuse(&mut self, parent: Parent, tokens: &[u32]) -> Option<Page> {
        let page = self.tree.find(parent, tokens.try_into().ok()?)?;
        self.retain(page);
        Some(page)
    }

    /// One more holder.
    pub fn retain(&mut self, page: Page) {
        if self.holders(page) == 0 {
            self.idle_list(page).remove(page);
        }
        self.pages[page as usize].holders += 1;
    }

    /// How many pages of `tokens` are known under `salt`, from the beginning. Holds none of them.
    pub fn known(&self, salt: u64, tokens: &[u32]) -> usize {
        let mut parent = Parent::Salt(salt);
        let mut known = 0;
        for tokens in tokens.as_chunks::<PAGE_TOKENS>().0 {
            let Some(page) = self.tree.find(parent, tokens) else { break };
            parent = self.as_parent(page);
            known += 1;
        }
        known
    }

    /// Makes the full page `page` known as `tokens` after `parent`. If its content was known already, the caller's page is
    /// let go and the known one takes its place: the numerics make them equal bit by bit. Returns the page to go on with.
    pub fn publish(&mut self, page: Page, parent: Parent, tokens: &[u32]) -> Page {
        let Ok(tokens): Result<&[u32; PAGE_TOKENS], _> = tokens.try_into() else { return page };
        if !self.prefix_cache || self.tree.is_known(page) {
            return page;
        }
        if let Some(known) = self.reuse(parent, tokens) {
            self.release(page);
            return known;
        }
        // What follows a page that was forgotten could not be found again.
        match parent {
            Parent::Page { page: before, .. } if self.as_parent(before) != parent || !self.tree.is_known(before) => {}
            Parent::Page { page: before, .. } if self.holders(before) == 0 => {
                self.idle_list(before).remove(before);
                self.tree.insert(page, parent, tokens);
                self.rest(before);
            }
            _ => self.tree.insert(page, parent, tokens),
        }
        page
    }

    /// What a page after `page` names as its parent.
    pub fn as_parent(&self, page: Page) -> Parent {
        Parent::Page { page, serial: self.tree.serial(page) }
    }

    /// One holder fewer. Holders release their last page first, so that a page is never evicted before those that follow it.
    pub fn release(&mut self, page: Page) {
        let info = &mut self.pages[page as usize];
        assert!(info.holders > 0, "a page is released once per holder");
        info.holders -= 1;
        if info.holders > 0 {
            return;
        }
        if self.tree.is_known(page) {
            self.clock += 1;
            self.tree.touch(page, self.clock);
            self.rest(page);
        } else {
            self.free.push(page);
        }
    }

    /// Forgets all content, after a failure that may have left pages half written. Holders keep theirs.
    pub fn forget_everything(&mut self) {
        while let Some(page) = self.leaves.first().or_else(|| self.inner.first()) {
            self.forget(page);
        }
        for page in 0..self.pages.len() as Page {
            if self.tree.is_known(page) {
                self.forget(page);
            }
        }
    }

    /// All tokens up to the end of a known page, and the salt they stand under.
    pub fn text(&self, page: Page) -> (u64, Vec<u32>) {
        self.tree.text(page)
    }

    /// Known pages, the most recently used first.
    pub fn known_pages(&self) -> Vec<Page> {
        let mut known: Vec<_> = (0..self.pages.len() as Page).filter(|page| self.tree.is_known(*page)).collect();
        known.sort_by_key(|page| (self.holders(*page) == 0, std::cmp::Reverse(self.tree.used_at(*page))));
        known
    }

    /// Whether a copy of a page is kept elsewhere.
    pub fn is_stored(&self, page: Page) -> bool {
        self.pages[page as usize].stored
    }

    pub fn set_stored(&mut self, page: Page) {
        self.pages[page as usize].stored = true;
    }

    fn idle_list(&mut self, page: Page) -> &mut IdleList {
        if self.tree.has_children(page) { &mut self.inner } else { &mut self.leaves }
    }

    /// Puts a known page that nobody holds among its like.
    fn rest(&mut self, page: Page) {
        let Self { tree, leaves, inner, .. } = self;
        let list = if tree.has_children(page) { inner } else { leaves };
        list.insert(page, |page| tree.used_at(page));
    }

    /// Makes a page and all that follow it unknown; those that nobody holds become free.
    fn forget(&mut self, page: Page) {
        loop {
            let last = self.tree.last_descendant(page);
            let before = match self.tree.parent(last) {
                Parent::Page { page: before, .. } => Some(before),
                Parent::Salt(_) => None,
            };
            let idle = self.holders(last) == 0;
            if idle {
                self.idle_list(last).remove(last);
            }
            let idle_before = before.filter(|before| self.holders(*before) == 0);
            if let Some(before) = idle_before {
                self.idle_list(before).remove(before);
            }
            self.tree.remove(last);
            if let Some(before) = idle_before {
                self.rest(before);
            }
            if idle {
                self.free.push(last);
            }
            if last == page {
                return;
            }
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

    /// Publishes `count` pages one after another and lets go of them, the last first; returns them.
    fn chain(pages: &mut Pages, salt: u64, count: u32) -> Vec<Page> {
        let mut parent = Parent::Salt(salt);
        let chain: Vec<_> = (0..count)
            .map(|number| {
                let page = pages.allocate().unwrap();
                pages.publish(page, parent, &tokens(number));
                parent = pages.as_parent(page);
                page
            })
            .collect();
        chain.iter().rev().for_each(|page| pages.release(*page));
        chain
    }

    #[test]
    fn leaves_go_first_and_the_least_recently_used_of_them() {
        let mut pages = Pages::new(5, true);
        let (old, new) = (chain(&mut pages, 1, 2), chain(&mut pages, 2, 3));
        // The old beginning is used again, what followed it is not.
        let again = pages.reuse(Parent::Salt(1), &tokens(0)).unwrap();
        pages.release(again);
        let order: Vec<_> = std::iter::from_fn(|| pages.allocate()).collect();
        assert_eq!(order, [old[1], new[2], new[1], new[0], old[0]]);
    }

    #[test]
    fn known_prefixes_are_counted_and_read_back() {
        let mut pages = Pages::new(4, true);
        let chain = chain(&mut pages, 7, 3);
        let text: Vec<u32> = (0..3).flat_map(tokens).collect();
        assert_eq!(pages.known(7, &text), 3);
        assert_eq!((pages.known(7, &text[..40]), pages.known(7, &text[1..]), pages.known(8, &text)), (2, 0, 0));
        assert_eq!(pages.text(chain[2]), (7, text));
        assert_eq!(pages.known_pages(), chain);
        assert_eq!(pages.available(), 4);
    }

    /// With a window, a sequence gives back its beginning while it goes on. The beginning may then be taken away, and what
    /// follows it is the sequence's own.
    #[test]
    fn pages_behind_a_window_can_be_had() {
        let mut pages = Pages::new(3, true);
        let root = Parent::Salt(0);
        let held: Vec<_> = (0..3).map(|_| pages.allocate().unwrap()).collect();
        let mut parent = root;
        for (number, page) in (0..3).zip(&held) {
            pages.publish(*page, parent, &tokens(number));
            parent = pages.as_parent(*page);
        }
        pages.release(held[0]);
        assert_eq!(pages.available(), 1);
        assert_eq!(pages.allocate(), Some(held[0]));
        assert_eq!(pages.allocate(), None);
        assert_eq!(pages.reuse(root, &tokens(0)), None);
        // What was taken away and filled anew is not what the others followed.
        pages.publish(held[0], root, &tokens(0));
        assert_eq!(pages.known(0, &(0..2).flat_map(tokens).collect::<Vec<_>>()), 1);
        // And the sequence cannot make known what nobody could find.
        assert_eq!(pages.publish(held[1], Parent::Page { page: held[2], serial: 3 }, &tokens(9)), held[1]);
        held.iter().for_each(|page| pages.release(*page));
        assert_eq!((pages.available(), pages.known_pages()), (3, vec![held[0]]));
    }
}
