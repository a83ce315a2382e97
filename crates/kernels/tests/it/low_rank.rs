//! What adapters add: close to f64, and the same bits whatever the ISA, the threads and the rows beside.

use falaj_kernels::{ActivationKind, Activations, AdaptedRow, Finally, LowRank, LowRankRows, Matrices, Ops, Pool};

use crate::random::{Random, all_ops, same_bits};

/// An adapter of three products, of which the middle one is left alone where `partial`.
struct Adapter {
    rank: usize,
    cols: usize,
    partial: bool,
    /// A (rank, cols) and B (outputs, rank) of each product.
    matrices: [(Vec<f32>, Vec<f32>); 3],
    bytes: Vec<u8>,
}

const WIDTHS: [usize; 3] = [40, 21, 32];

fn packed<const N: usize>(cols: usize, rank: usize, matrices: [Option<Matrices>; N]) -> Vec<u8> {
    let widths = matrices.map(|matrices| matrices.map(|(_, b)| b.len() / rank));
    let mut bytes = vec![0; LowRank::bytes_for(cols, rank, widths).unwrap()];
    LowRank::pack(cols, rank, matrices, &mut bytes);
    bytes
}

fn in_blocks(x: &[f32], cols: usize) -> Activations {
    let mut activations = Activations::new(x.len() / cols, cols);
    activations.set(&Ops::best(), &Pool::new(1), x, x.len() / cols, cols, ActivationKind::BLOCKS);
    activations
}

impl Adapter {
    fn random(random: &mut Random, rank: usize, cols: usize, partial: bool) -> Self {
        // Rows of very different sizes.
        let matrices = WIDTHS.map(|width| {
            let mut a = random.floats(rank * cols);
            a.chunks_exact_mut(cols).enumerate().for_each(|(i, row)| row.iter_mut().for_each(|a| *a *= (1 + i) as f32));
            (a, random.floats(width * rank))
        });
        let [a, b, c] = matrices.each_ref().map(|(a, b)| (a.as_slice(), b.as_slice()));
        let bytes = packed(cols, rank, [Some(a), (!partial).then_some(b), Some(c)]);
        Self { rank, cols, partial, matrices, bytes }
    }

    fn widths(&self) -> [Option<usize>; 3] {
        [Some(WIDTHS[0]), (!self.partial).then_some(WIDTHS[1]), Some(WIDTHS[2])]
    }

    fn view(&self) -> LowRank<'_, 3> {
        LowRank::new(self.cols, self.rank, self.widths(), &self.bytes).unwrap()
    }

    /// What is added to product `i` exactly, and how far from it eight bits may be: the bound of `low_rank.rs`.
    fn adds(&self, x: &[f32], i: usize) -> Vec<(f64, f64)> {
        if self.widths()[i].is_none() {
            return vec![(0.0, 0.0); WIDTHS[i]];
        }
        let (a, b) = &self.matrices[i];
        let largest = |values: &[f32]| values.iter().fold(0.0, |most: f64, value| most.max(f64::from(value.abs())));
        let low = a.chunks_exact(self.cols).map(|row| {
            let most = largest(row);
            let (mut sum, mut error) = (0.0, 0.0);
            for (row, x) in row.chunks(32).zip(x.chunks(32)) {
                let block = largest(x);
                for (a, x) in row.iter().zip(x).map(|(a, x)| (f64::from(*a), f64::from(*x))) {
                    sum += a * x;
                    error += (a.abs() * block + most * x.abs() + most * block / 254.0) / 254.0;
                }
            }
            (sum, error)
        });
        let low: Vec<(f64, f64)> = low.collect();
        let rows = b.chunks_exact(self.rank).map(|row| {
            let most = largest(row);
            let (mut sum, mut error) = (0.0, 0.0);
            for (row, low) in row.chunks(32).zip(low.chunks(32)) {
                let block = low.iter().fold(0.0, |most: f64, (low, error)| most.max(low.abs() + error));
                for (b, (low, wrong)) in row.iter().map(|b| f64::from(*b)).zip(low) {
                    sum += b * low;
                    let rounded = 1.01 * most * (low.abs() + wrong) + block * b.abs() + most * block / 250.0;
                    error += b.abs() * wrong + rounded / 250.0;
                }
            }
            (sum, error)
        });
        rows.collect()
    }
}

fn run(ops: &Ops, threads: usize, x: &[f32], cols: usize, rows: &[AdaptedRow], adapters: &[Adapter]) -> [Vec<f32>; 3] {
    let count = x.len() / cols;
    let mut outs = WIDTHS.map(|width| (0..count * width).map(|i| i as f32 / 64.0).collect::<Vec<f32>>());
    let low_stride = adapters.iter().map(|adapter| 3 * adapter.rank).max().unwrap_or(0);
    let x = &in_blocks(x, cols);
    let mut low = vec![f32::NAN; rows.len() * low_stride];
    let [a, b, c] = &mut outs;
    let outs_of = [(a.as_mut_slice(), WIDTHS[0]), (b.as_mut_slice(), WIDTHS[1]), (c.as_mut_slice(), WIDTHS[2])];
    let rows = LowRankRows { x, rows, outs: outs_of, low: &mut low, low_stride };
    let adapter = |number: u32| adapters.get(number as usize).map(Adapter::view);
    ops.low_rank(&Pool::new(threads), rows, adapter, Finally::Nothing);
    outs
}

#[test]
fn close_to_exact_and_the_same_bits_everywhere() {
    let mut random = Random(7);
    // An odd depth, one so wide that few rows are cut, and ranks of all sorts: panels of 4, 8 and 16 rows, more than one block.
    for (cols, ranks) in [(33, [1, 3]), (64, [8, 16]), (96, [70, 13]), (20_000, [16, 6])] {
        let adapters =
            [Adapter::random(&mut random, ranks[0], cols, false), Adapter::random(&mut random, ranks[1], cols, true)];
        let x = random.floats(9 * cols);
        let row = |row, adapter| AdaptedRow { row, adapter };
        // Row 1 has none, row 3 one that nobody knows; four rows in a run are multiplied at once.
        let rows = [row(0, 1), row(2, 0), row(3, 9), row(4, 1), row(5, 1), row(6, 1), row(7, 1), row(8, 0)];
        let expected = run(&Ops::best(), 1, &x, cols, &rows, &adapters);
        let (mut size, mut error) = (0.0, 0.0);
        for (i, out) in expected.iter().enumerate() {
            for (at, out) in out.chunks_exact(WIDTHS[i]).enumerate() {
                let adapter = rows.iter().find(|row| row.row as usize == at).map(|row| row.adapter as usize);
                let adds = adapter
                    .and_then(|adapter| adapters.get(adapter))
                    .map(|adapter| adapter.adds(&x[at * cols..][..cols], i));
                for (j, value) in out.iter().enumerate() {
                    let before = f64::from((at * WIDTHS[i] + j) as f32 / 64.0);
                    let (adds, most) = adds.as_ref().map_or((0.0, 0.0), |adds| adds[j]);
                    let (exact, wrong) = (before + adds, (f64::from(*value) - before - adds).abs());
                    assert!(wrong <= most + 1e-6 * (1.0 + exact.abs()), "{value} for {exact} at {at}, {j}");
                    (size, error) = (size + adds * adds, error + wrong * wrong);
                }
            }
        }
        // Together the roundings are far below what each may be.
        assert!(error.sqrt() < 0.015 * size.sqrt(), "{} of {}", error.sqrt(), size.sqrt());
        for ops in all_ops() {
            for threads in [1, 2, 3, 16] {
                let outs = run(&ops, threads, &x, cols, &rows, &adapters);
                outs.iter().zip(&expected).for_each(|(out, expected)| same_bits(out, expected, "together"));
                // Each row alone.
                for row in rows {
                    let outs = run(&ops, threads, &x, cols, &[row], &adapters);
                    for (i, out) in outs.iter().enumerate() {
                        let place = row.row as usize * WIDTHS[i]..(row.row as usize + 1) * WIDTHS[i];
                        same_bits(&out[place.clone()], &expected[i][place], "alone");
                    }
                }
            }
        }
    }
}

#[test]
fn gates_are_those_of_swiglu() {
    let mut random = Random(8);
    let (cols, width, rank) = (48, 50, 4);
    let mut matrices = || (random.floats(rank * cols), random.floats(width * rank));
    let (gate, up) = (matrices(), matrices());
    let bytes = packed(cols, rank, [Some((&gate.0, &gate.1)), Some((&up.0, &up.1))]);
    let (x, before) = (in_blocks(&random.floats(2 * cols), cols), random.floats(2 * 2 * width));
    let rows = [AdaptedRow { row: 0, adapter: 0 }, AdaptedRow { row: 1, adapter: u32::MAX }];
    let adapter = |number| (number == 0).then(|| LowRank::new(cols, rank, [Some(width); 2], &bytes).unwrap());
    for ops in all_ops() {
        let made = |finally| {
            let (mut gates, mut ups) = (before[..2 * width].to_vec(), before[2 * width..].to_vec());
            let mut low = [0.0; 32];
            let outs = [(gates.as_mut_slice(), width), (ups.as_mut_slice(), width)];
            let rows = LowRankRows { x: &x, rows: &rows, outs, low: &mut low, low_stride: 16 };
            ops.low_rank(&Pool::new(2), rows, adapter, finally);
            (gates, ups)
        };
        let (mut expected, ups) = made(Finally::Nothing);
        assert_eq!(expected[width..], before[width..2 * width]);
        ops.swiglu(&mut expected, &ups);
        same_bits(&made(Finally::Swiglu).0, &expected, "gated");
    }
}

#[test]
#[should_panic(expected = "rows in ascending order")]
fn a_row_comes_once() {
    let mut random = Random(9);
    let adapters = [Adapter::random(&mut random, 2, 16, false)];
    let row = AdaptedRow { row: 0, adapter: 0 };
    run(&Ops::best(), 1, &random.floats(16), 16, &[row, row], &adapters);
}
