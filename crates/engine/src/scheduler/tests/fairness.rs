//! Several tenants on one engine, step by step: who gets how much, and when.

use std::collections::BTreeMap;

use super::*;
use crate::request::Tenant;

/// An engine of one thread, so many places and pages and rows a step, and those who read from it.
struct Site {
    scheduler: Scheduler,
    readers: BTreeMap<u64, mpsc::Receiver<Event>>,
    tenants: BTreeMap<u64, u64>,
    prompts: BTreeMap<u64, usize>,
    /// The step of the first token, and of the end.
    first: BTreeMap<u64, u64>,
    ended: BTreeMap<u64, u64>,
    generated: BTreeMap<u64, usize>,
    /// Prompt tokens and generated tokens at their worth, by tenant.
    service: BTreeMap<u64, i64>,
    next: u64,
}

fn tenant(id: u64) -> Tenant {
    Tenant { id, ..Tenant::default() }
}

impl Site {
    fn new(places: usize, pages: usize, rows: usize) -> Self {
        let model = Arc::new(falaj_model::synthetic(&tiny_config(50, 512), 0).unwrap());
        let options =
            EngineOptions { max_sequences: places, speculation: false, step_ms: 0, ..EngineOptions::default() };
        let shared = Arc::new(Shared::new(&options));
        let workspace = Workspace::new(&model, Pool::new(1), rows, rows).unwrap();
        let cache = KvCache::new(model.config(), KvFormat::F16, pages).unwrap();
        let scheduler = Scheduler::new(model, shared, workspace, cache, 32, None, None, &options);
        Self {
            scheduler,
            readers: BTreeMap::new(),
            tenants: BTreeMap::new(),
            prompts: BTreeMap::new(),
            first: BTreeMap::new(),
            ended: BTreeMap::new(),
            generated: BTreeMap::new(),
            service: BTreeMap::new(),
            next: 0,
        }
    }

    fn ask(&mut self, tenant: Tenant, prompt: usize, max_tokens: usize) -> u64 {
        self.next += 1;
        let id = self.next;
        let (sender, events) = mpsc::channel(64);
        let work = Work::Generate(generation(Sampling::default(), max_tokens, sender));
        let mut tokens: Vec<u32> = (0..prompt as u32).map(|at| (at * at + at * 3 + id as u32 * 7) % 50).collect();
        tokens.reserve_exact(max_tokens);
        self.scheduler.waiting.push_back(Sequence::new(id, tokens, id, work).with(tenant, None));
        self.readers.insert(id, events);
        self.tenants.insert(id, tenant.id);
        self.prompts.insert(id, prompt);
        self.service.entry(tenant.id).or_default();
        id
    }

    fn waits(&self, tenant: u64) -> usize {
        self.scheduler.waiting.iter().filter(|sequence| sequence.tenant.id == tenant).count()
    }

    fn runs(&self, tenant: u64) -> usize {
        self.scheduler.running.iter().filter(|sequence| sequence.tenant.id == tenant).count()
    }

    fn step(&mut self) {
        self.scheduler.admit();
        self.scheduler.fill();
        assert!(!self.scheduler.batch.is_empty());
        self.scheduler.step();
        self.scheduler.remove_ended();
        let step = self.scheduler.step.step;
        let ids: Vec<u64> = self.readers.keys().copied().collect();
        for id in ids {
            while let Some(Ok(event)) = self.readers.get_mut(&id).map(mpsc::Receiver::try_recv) {
                let service = self.service.entry(self.tenants[&id]).or_default();
                match event {
                    Event::Token { .. } => {
                        // Served as the paper counts: the prompt when it is read, and each token.
                        self.first.entry(id).or_insert_with(|| {
                            *service += self.prompts[&id] as i64;
                            step
                        });
                        *service += 2;
                        *self.generated.entry(id).or_default() += 1;
                    }
                    Event::Done { .. } => {
                        self.ended.insert(id, step);
                        self.readers.remove(&id);
                    }
                    Event::Failed(message) => panic!("{message}"),
                }
            }
        }
    }

    fn now(&self) -> u64 {
        self.scheduler.step.step
    }
}

/// The theorem of the paper: between two tenants that always wait, the difference of service in any interval is at most
/// 2 max(w_p L_input, w_q M), where M is what the running batch holds. Whatever they ask.
#[test]
fn the_service_gap_of_tenants_that_always_wait_is_bounded() {
    for (seed, (longest, shortest)) in
        [((90, 70), (4, 2)), ((10, 90), (90, 4)), ((64, 3), (8, 60))].into_iter().enumerate()
    {
        let (places, pages) = (4, 40);
        let mut site = Site::new(places, pages, 64);
        let mut random = seed as u64 + 1;
        let mut below = |most: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            1 + (random >> 33) as usize % most
        };
        let most_prompt = longest.0.max(shortest.0) as i64;
        let (mut gaps, mut most_held) = (vec![0], 0);
        for _ in 0..900 {
            for (id, size) in [(1, longest), (2, shortest)] {
                while site.waits(id) < 3 {
                    site.ask(tenant(id), below(size.0), below(size.1));
                }
            }
            site.step();
            let held: usize = site.scheduler.running.iter().map(|sequence| sequence.tokens.len()).sum();
            most_held = most_held.max(held as i64);
            gaps.push(site.service[&1] - site.service[&2]);
        }
        let gap = gaps.iter().max().unwrap() - gaps.iter().min().unwrap();
        let bound = 2 * most_prompt.max(2 * most_held);
        assert!(gap <= bound, "{gap} of {bound}");
        // And far more than the bound was served, so that it says something.
        assert!(site.service[&1] > 3 * bound && site.service[&2] > 3 * bound, "{:?}, {bound}", site.service);
    }
}

/// A hundred requests of one tenant are in the queue, and as many run as there are places, when another asks for something:
/// it has its first token in the next step, and as many as if it were alone from then on.
#[test]
fn a_greedy_tenant_does_not_delay_a_quiet_one() {
    let mut site = Site::new(4, 80, 64);
    for _ in 0..100 {
        site.ask(tenant(1), 30, 40);
    }
    (0..20).for_each(|_| site.step());
    assert_eq!(site.runs(1), 4);
    let asked = site.now();
    let quiet = site.ask(tenant(2), 30, 12);
    while !site.ended.contains_key(&quiet) {
        site.step();
    }
    assert_eq!((site.first[&quiet] - asked, site.ended[&quiet] - asked), (1, 12));
    // The greedy one has all places again.
    site.step();
    assert_eq!((site.runs(1), site.generated[&quiet]), (4, 12));

    // The pages are what is short: the same.
    let mut site = Site::new(8, 20, 64);
    for _ in 0..20 {
        site.ask(tenant(1), 30, 40);
    }
    (0..12).for_each(|_| site.step());
    assert!(site.runs(1) < 8 && site.waits(1) > 0);
    let asked = site.now();
    let quiet = site.ask(tenant(2), 60, 3);
    while !site.ended.contains_key(&quiet) {
        site.step();
    }
    assert!(site.ended[&quiet] - asked <= 6, "{}", site.ended[&quiet] - asked);
}

/// Who gave way says what it would have said.
#[test]
fn giving_way_changes_no_token() {
    let alone = |id: u64| {
        let mut site = Site::new(1, 80, 64);
        site.next = id - 1;
        site.ask(tenant(1), 30, 40);
        let mut tokens = Vec::new();
        while !site.scheduler.running.is_empty() || tokens.is_empty() {
            site.step();
            tokens = site.scheduler.running.first().map_or(tokens, |sequence| sequence.tokens.clone());
        }
        tokens
    };
    let mut site = Site::new(2, 80, 64);
    for _ in 0..2 {
        site.ask(tenant(1), 30, 40);
    }
    (0..9).for_each(|_| site.step());
    site.ask(tenant(2), 30, 30);
    site.step();
    assert_eq!((site.runs(1), site.waits(1), site.runs(2)), (1, 1, 1));
    let mut tokens = BTreeMap::new();
    while !site.scheduler.running.is_empty() {
        site.step();
        for sequence in &site.scheduler.running {
            tokens.insert(sequence.id, sequence.tokens.clone());
        }
    }
    assert_eq!(site.generated[&2], 40);
    for id in [1, 2] {
        assert_eq!(tokens[&id], alone(id));
    }
}

#[test]
fn weights_divide_tokens() {
    let mut site = Site::new(8, 200, 64);
    for _ in 0..800 {
        for (id, weight) in [(1, 100), (2, 300)] {
            while site.waits(id) < 2 {
                site.ask(Tenant { id, weight, band: 0 }, 12, 20);
            }
        }
        site.step();
    }
    let ratio = site.service[&2] as f64 / site.service[&1] as f64;
    assert!((2.8..=3.2).contains(&ratio), "{ratio}");
}

/// The quiet tenant did nothing for long: what it did not use is lost, and it gets half from there on.
#[test]
fn idling_saves_nothing_up() {
    let mut site = Site::new(4, 80, 64);
    for step in 0..600 {
        while site.waits(1) < 6 {
            site.ask(tenant(1), 20, 20);
        }
        while step >= 300 && site.waits(2) < 6 {
            site.ask(tenant(2), 20, 20);
        }
        if step == 300 {
            site.service.insert(1, 0);
        }
        site.step();
    }
    let (first, second) = (site.service[&1], site.service[&2]);
    let bound = 2 * 2 * 4 * 40;
    assert!((first - second).abs() <= bound && second > 2 * bound, "{first}, {second}");
}

/// The higher band has what it asks for, and the lower one a place in seventeen.
#[test]
fn bands_come_first_and_do_not_starve() {
    let mut site = Site::new(2, 80, 64);
    let low: Vec<u64> = (0..8).map(|_| site.ask(tenant(1), 20, 8)).collect();
    let mut high = Vec::new();
    for _ in 0..400 {
        while site.waits(2) < 2 {
            high.push(site.ask(Tenant { id: 2, weight: 1, band: 1 }, 20, 8));
        }
        site.step();
    }
    let ended = |ids: &[u64]| ids.iter().filter(|id| site.ended.contains_key(*id)).count();
    let (low, high) = (ended(&low), ended(&high));
    assert!(low >= high / 17 && low <= 2 + high / 16, "{low}, {high}");
}
