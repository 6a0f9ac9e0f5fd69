//! Prints how fast the CPU kernels are, beside a plain read of the same bytes in the same process.
//!
//! `cargo run --release -p dormouse-engine --example kernels -- [threads] [instruction set's index]`

use dormouse_engine::measure::{Model, Weights, formats, instruction_sets};

const REPEATS: usize = 9;

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<usize>().expect("a number"));
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let (threads, isa) = (args.next().unwrap_or(cores), args.next().unwrap_or(0));
    println!("instruction sets: {}", instruction_sets().join(", "));
    println!("{} on {threads} threads, best of {REPEATS}\n", instruction_sets()[isa]);
    matrices(isa, threads);
    steps(isa, threads);
}

/// Every format: one row against memory, many against arithmetic.
fn matrices(isa: usize, threads: usize) {
    println!("{:>6} {:>10} {:>10} {:>10} {:>10} {:>10}", "", "read", "1 row", "1 row", "8 rows", "256 rows");
    println!("{:>6} {:>10} {:>10} {:>10} {:>10} {:>10}", "", "GB/s", "GB/s", "GMAC/s", "GMAC/s", "GMAC/s");
    for (index, format) in formats().into_iter().enumerate() {
        let mut weights = Weights::new(isa, threads, index, 24);
        let (bytes, products) = (weights.bytes() as f64 / 1e9, weights.multiplications() as f64 / 1e9);
        let [read, one, eight, many] = best(
            &mut [
                &mut |w: &mut Weights| w.read(),
                &mut |w| w.multiply(1),
                &mut |w| w.multiply(8),
                &mut |w| w.multiply(256),
            ],
            &mut weights,
        );
        println!(
            "{format:>6} {:>10.1} {:>10.1} {:>10.1} {:>10.1} {:>10.1}",
            bytes / read,
            bytes / one,
            products / one,
            8.0 * products / eight,
            256.0 * products / many,
        );
    }
}

/// Steps of a model of SmolLM2-135M's shape.
fn steps(isa: usize, threads: usize) {
    let mut model = Model::new(isa, threads, 256);
    let megabytes = model.bytes() as f64 / 1e6;
    println!("\nsteps of a model of {megabytes:.1} MB, Q4_1 with a head of Q8_0");
    println!("{:>24} {:>10} {:>10} {:>10}", "", "ms", "tokens/s", "x read");
    let cases = [
        ("decode at 40", 1, 1, 40),
        ("decode at 512", 1, 1, 512),
        ("decode at 1536", 1, 1, 1536),
        ("batch of 4 at 40", 4, 1, 40),
        ("batch of 8 at 40", 8, 1, 40),
        ("batch of 16 at 40", 16, 1, 40),
        ("prefill of 128", 1, 128, 0),
        ("prefill 256 behind 256", 1, 256, 256),
        ("prefill 256 behind 1792", 1, 256, 1792),
    ];
    for (name, sequences, rows, depth) in cases {
        let [read, step] =
            best(&mut [&mut |m: &mut Model| m.read(), &mut |m| m.step(sequences, rows, depth)], &mut model);
        let tokens = (sequences * rows) as f64;
        println!("{name:>24} {:>10.2} {:>10.0} {:>10.2}", step * 1e3, tokens / step, step / read);
    }
}

/// Runs all in turn, several times; the least seconds of each, as other work only adds some.
fn best<T, const N: usize>(runs: &mut [&mut dyn FnMut(&mut T) -> f64; N], of: &mut T) -> [f64; N] {
    let mut least = [f64::INFINITY; N];
    for _ in 0..REPEATS {
        for (run, least) in runs.iter_mut().zip(&mut least) {
            *least = least.min(run(of));
        }
    }
    least
}
