//! What adapters add: close to f64, and the same bits whatever the ISA, the threads and the rows beside.

use falaj_kernels::{AdaptedRow, Finally, Format, LowRank, LowRankRows, Matrix, Ops, Panels, Pool};

use crate::random::{Random, all_ops, same_bits};

/// An adapter of three products, of which the middle one is left alone where `partial`.
struct Adapter {
    rank: usize,
    partial: bool,
    first: Packed,
    second: [Packed; 3],
}

struct Packed {
    rows: usize,
    cols: usize,
    bytes: Vec<u8>,
    values: Vec<f32>,
}

impl Packed {
    fn random(random: &mut Random, rows: usize, cols: usize) -> Self {
        let ops = Ops::best();
        let mut rounded = vec![0; Format::BF16.row_bytes(rows * cols).unwrap()];
        ops.quantize_row(Format::BF16, &random.floats(rows * cols), &mut rounded);
        let mut values = vec![0.0; rows * cols];
        ops.dequantize_row(Format::BF16, &rounded, &mut values);
        let mut bytes = vec![0; Panels::bytes_for(Format::BF16, rows, cols).unwrap()];
        let matrix = Matrix::new(Format::BF16, rows, cols, &rounded).unwrap();
        ops.pack(&Pool::new(1), &matrix, &mut bytes);
        Self { rows, cols, bytes, values }
    }

    fn view(&self) -> Panels<'_> {
        Panels::new(Format::BF16, self.rows, self.cols, &self.bytes).unwrap()
    }

    fn times(&self, x: &[f64]) -> Vec<f64> {
        let rows = self.values.chunks_exact(self.cols);
        rows.map(|row| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum()).collect()
    }
}

const WIDTHS: [usize; 3] = [40, 21, 32];

impl Adapter {
    fn random(random: &mut Random, rank: usize, cols: usize, partial: bool) -> Self {
        let first = Packed::random(random, rank * if partial { 2 } else { 3 }, cols);
        Self { rank, partial, first, second: WIDTHS.map(|width| Packed::random(random, width, rank)) }
    }

    fn view(&self) -> LowRank<'_, 3> {
        let [a, b, c] = self.second.each_ref().map(Packed::view);
        LowRank { first: self.first.view(), second: [Some(a), (!self.partial).then_some(b), Some(c)] }
    }

    /// What is added to product `i`.
    fn adds(&self, x: &[f32], i: usize) -> Vec<f64> {
        let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        let low = self.first.times(&x);
        let place = if self.partial { [Some(0), None, Some(1)] } else { [Some(0), Some(1), Some(2)] }[i];
        place.map_or(vec![0.0; WIDTHS[i]], |place| self.second[i].times(&low[place * self.rank..][..self.rank]))
    }
}

fn run(ops: &Ops, threads: usize, x: &[f32], cols: usize, rows: &[AdaptedRow], adapters: &[Adapter]) -> [Vec<f32>; 3] {
    let count = x.len() / cols;
    let mut outs = WIDTHS.map(|width| (0..count * width).map(|i| i as f32 / 64.0).collect::<Vec<f32>>());
    let low_stride = adapters.iter().map(|adapter| adapter.first.rows.next_multiple_of(16)).max().unwrap_or(0);
    let mut low = vec![f32::NAN; rows.len() * low_stride];
    let [a, b, c] = &mut outs;
    let outs_of = [(a.as_mut_slice(), WIDTHS[0]), (b.as_mut_slice(), WIDTHS[1]), (c.as_mut_slice(), WIDTHS[2])];
    let rows = LowRankRows { x, stride: cols, cols, rows, outs: outs_of, low: &mut low, low_stride };
    let adapter = |number: u32| adapters.get(number as usize).map(Adapter::view);
    ops.low_rank(&Pool::new(threads), rows, adapter, Finally::Nothing);
    outs
}

#[test]
fn close_to_exact_and_the_same_bits_everywhere() {
    let mut random = Random(7);
    // An odd depth, one so wide that few rows are cut, and ranks of all sorts.
    for (cols, ranks) in [(33, [1, 3]), (64, [8, 16]), (20_000, [16, 6])] {
        let adapters =
            [Adapter::random(&mut random, ranks[0], cols, false), Adapter::random(&mut random, ranks[1], cols, true)];
        let x = random.floats(5 * cols);
        let row = |row, adapter| AdaptedRow { row, adapter };
        // Row 1 has none, row 3 one that nobody knows.
        let rows = [row(0, 1), row(2, 0), row(3, 9), row(4, 1)];
        let expected = run(&Ops::best(), 1, &x, cols, &rows, &adapters);
        for (i, out) in expected.iter().enumerate() {
            for (at, out) in out.chunks_exact(WIDTHS[i]).enumerate() {
                let adapter = rows.iter().find(|row| row.row as usize == at).map(|row| row.adapter as usize);
                let adds = adapter
                    .and_then(|adapter| adapters.get(adapter))
                    .map(|adapter| adapter.adds(&x[at * cols..][..cols], i));
                for (j, value) in out.iter().enumerate() {
                    let before = f64::from((at * WIDTHS[i] + j) as f32 / 64.0);
                    let exact = before + adds.as_ref().map_or(0.0, |adds| adds[j]);
                    let most = 1e-5 * (1.0 + exact.abs()) * (cols as f64).sqrt();
                    assert!((f64::from(*value) - exact).abs() <= most, "{value} for {exact} at {at}, {j}");
                }
            }
        }
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
    let (first, gate, up) = (
        Packed::random(&mut random, 2 * rank, cols),
        Packed::random(&mut random, width, rank),
        Packed::random(&mut random, width, rank),
    );
    let (x, before) = (random.floats(2 * cols), random.floats(2 * 2 * width));
    let rows = [AdaptedRow { row: 0, adapter: 0 }, AdaptedRow { row: 1, adapter: u32::MAX }];
    let adapter =
        |number| (number == 0).then(|| LowRank { first: first.view(), second: [Some(gate.view()), Some(up.view())] });
    for ops in all_ops() {
        let made = |finally| {
            let (mut gates, mut ups) = (before[..2 * width].to_vec(), before[2 * width..].to_vec());
            let mut low = [0.0; 32];
            let outs = [(gates.as_mut_slice(), width), (ups.as_mut_slice(), width)];
            let rows = LowRankRows { x: &x, stride: cols, cols, rows: &rows, outs, low: &mut low, low_stride: 16 };
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
