//! What metering costs: CPU per request (opening and settlement) and how long an opening waits, at a number of requests in
//! flight. `meter_rate [IN_FLIGHT] [REQUESTS] [TENANTS]`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use falaj_store::{Amounts, Budgets, Limit, Meter, MeterSettings, MeteredEnergy, Opened, Per, Scope, Settled, What};

fn main() {
    let mut numbers = std::env::args().skip(1).map(|number| number.parse().expect("a number"));
    let mut next = |default| numbers.next().unwrap_or(default);
    let (in_flight, requests, tenants) = (next(64), next(200_000), next(10));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let dir = std::env::temp_dir().join(format!("meter-rate-{}", std::process::id()));
    let meter = runtime.block_on(Meter::start(&dir, MeterSettings::default())).expect("a meter");
    let meter = Arc::new(meter);
    let names = (0..tenants).map(|tenant| {
        ["org", "workspace", "key"].map(|kind| Arc::from(format!("{kind}-{tenant}-0123456789abcdef01234567")))
    });
    let names: Arc<Vec<[Arc<str>; 3]>> = Arc::new(names.collect());
    let (begin, cpu) = (Instant::now(), cpu());
    let started = Arc::new(AtomicU64::new(0));
    let tasks = (0..in_flight).map(|_| {
        let (meter, started, names) = (Arc::clone(&meter), Arc::clone(&started), Arc::clone(&names));
        runtime.spawn(async move {
            let model: Arc<str> = "falaj-seed".into();
            let mut waits = Vec::new();
            loop {
                let number = started.fetch_add(1, Ordering::Relaxed);
                if number >= requests {
                    return waits;
                }
                let time_ms = 1_795_435_200_000 + number / 20;
                let random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let request_id = (u128::from(time_ms) << 80 | u128::from(random)).to_be_bytes();
                let [organisation, workspace, key] = names[(random >> 32) as usize % names.len()].clone();
                let asked = Instant::now();
                let opened = Opened {
                    request_id,
                    organisation,
                    workspace,
                    key,
                    time_ms,
                    model: Arc::clone(&model),
                    decision: [1; 32],
                    input_salt: Some([2; 32]),
                    output_salt: Some([3; 32]),
                };
                meter.open(opened).expect("room").await.expect("written");
                waits.push(asked.elapsed());
                let energy = Some(MeteredEnergy { uj: 1_000, grade: 'C' });
                let settled = Settled {
                    request_id,
                    prompt_tokens: 100,
                    completion_tokens: 50,
                    cached_tokens: 0,
                    money: 7,
                    energy,
                    receipt: vec![4; 526],
                    entry: number,
                };
                drop(meter.settle(settled).expect("room"));
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let mut waits: Vec<Duration> =
        tasks.into_iter().flat_map(|task| runtime.block_on(task).expect("no panic")).collect();
    drop(meter);
    let (seconds, cpu) = (begin.elapsed().as_secs_f64(), self::cpu() - cpu);
    waits.sort_unstable();
    let at = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize];
    println!(
        "{in_flight} in flight, {tenants} tenants: {:.1} us of CPU and {:.0} requests/s; an opening waits {:?}, p99 {:?}, at most {:?}",
        cpu * 1e6 / requests as f64,
        requests as f64 / seconds,
        at(0.5),
        at(0.99),
        at(1.0),
    );
    let bytes: u64 = std::fs::metadata(dir.join("usage.db")).expect("a file").len();
    println!("{} bytes on disk per request", bytes / requests);
    std::fs::remove_dir_all(&dir).expect("removed");
    budgets();
}

/// A reservation and its settlement, under a limit of each kind at each level.
fn budgets() {
    let limits = Scope::ALL.iter().flat_map(|&scope| {
        [(What::Requests, Per::Minute), (What::Tokens, Per::Day), (What::Money, Per::Month), (What::Joules, Per::Month)]
            .map(|(what, per)| Limit {
                id: "limit".into(),
                scope,
                scope_id: scope.name().into(),
                what,
                per,
                amount: u64::MAX / 2,
            })
    });
    let budgets = Budgets::new(limits.collect(), &[], 0);
    let amounts = Amounts { requests: 1, tokens: 100, money: 5, joules: 1_000 };
    let scopes = ["organisation", "workspace", "key"];
    let rounds = 2_000_000u32;
    let mut spent = [Duration::ZERO; 2];
    let begin = Instant::now();
    for round in 0..rounds {
        drop(budgets.reserve(scopes, amounts, u64::from(round)).expect("room"));
    }
    spent[0] = begin.elapsed();
    let begin = Instant::now();
    for round in 0..rounds {
        let reserved = budgets.reserve(scopes, amounts, u64::from(round)).expect("room");
        reserved.settle(amounts);
    }
    spent[1] = begin.elapsed();
    println!("reserve and settle as reserved: {:?}; reserve and give back: {:?}", spent[1] / rounds, spent[0] / rounds);
}

/// Seconds of CPU that this process has had, from the kernel's own account of it in ticks of 10 ms.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields = stat.rsplit(')').next().expect("fields").split_whitespace();
    fields.skip(11).take(2).map(|ticks| ticks.parse::<f64>().expect("ticks")).sum::<f64>() / 100.0
}
