//! The largest logits of a row, so that a step returns a few numbers instead of a vocabulary of them.
//!
//! A cube has a row; each of its units looks through every 256th logit. The largest of each unit are ranked; the
//! `count`-th of them is a bound that at least `count` logits reach, and few more do. Those that reach it are listed
//! and ranked. One alone is the best of the units' best.

use cubecl_core::{self as cubecl, prelude::*};

use super::{
    device::Device,
    memory::{Buffer, Vector},
};
use crate::backend::{TOP_MAX, Top};

/// Units of a cube.
const UNITS: usize = 256;
/// Logits that are listed; where more reach the bound, as they do when most are equal, all are read instead.
const LISTED: usize = 1024;
/// Lower than any logit that can be drawn.
const LOWEST: f32 = f32::MIN;
/// No token, or too many to list.
const NONE: u32 = u32::MAX;

/// Words of a row of the result: how many there are, their tokens, the bits of their logits.
fn row_words(count: usize) -> usize {
    1 + 2 * count
}

/// Finds the `count` largest of each of the first rows.
pub(super) fn find(device: &Device, logits: &Buffer, rows: usize, count: usize) -> Vector {
    assert!((1..=TOP_MAX).contains(&count), "{count} of at most {TOP_MAX} logits");
    assert!(rows <= logits.rows, "{rows} rows of {}", logits.rows);
    let found = device.uninitialized(rows * row_words(count));
    device.count();
    // SAFETY: the rows are there, and the result has room for each.
    unsafe {
        largest::launch_unchecked(
            device.client(),
            CubeCount::Static(rows as u32, 1, 1),
            CubeDim::new_1d(UNITS as u32),
            logits.argument(),
            found.argument(),
            logits.columns as u32,
            count as u32,
            count == 1,
        );
    }
    found
}

/// Rows as `find` left them; `None` where one had too many to list.
pub(super) fn taken(words: &[u32], count: usize) -> Option<Vec<Top>> {
    let row = |row: &[u32]| {
        let (tokens, bits) = row[1..].split_at(count);
        let pairs = tokens.iter().zip(bits).take(row[0] as usize);
        (row[0] != NONE).then(|| pairs.map(|(token, bits)| (*token, f32::from_bits(*bits))).collect())
    };
    words.chunks_exact(row_words(count)).map(row).collect()
}

#[cube(launch_unchecked)]
fn largest(logits: &[f32], found: &mut [u32], vocabulary: u32, count: u32, #[comptime] is_single: bool) {
    let vocabulary = vocabulary as usize;
    let unit = UNIT_POS as usize;
    let start = CUBE_POS_X as usize * vocabulary;
    let into = CUBE_POS_X as usize * (1 + 2 * count as usize);
    let mut values = Shared::<[f32]>::new_slice(256usize);
    let mut tokens = Shared::<[u32]>::new_slice(256usize);
    let mut best = LOWEST.runtime();
    let mut best_token = NONE.runtime();
    let mut token = unit;
    while token < vocabulary {
        let value = logits[start + token];
        // Not so for NaN.
        if value > best {
            best = value;
            best_token = token as u32;
        }
        token += 256;
    }
    values[unit] = best;
    tokens[unit] = best_token;
    sync_cube();

    if comptime!(is_single) {
        if unit == 0 {
            for other in 1..256usize {
                if is_before(values[other], tokens[other], best, best_token) {
                    best = values[other];
                    best_token = tokens[other];
                }
            }
            found[into] = select(best_token == NONE, 0u32, 1u32);
            found[into + 1] = best_token;
            found[into + 2] = u32::reinterpret(best);
        }
    } else {
        let mut bound = Shared::<[f32]>::new_slice(1usize);
        let mut rank = 0u32;
        for other in 0..256usize {
            if is_before(values[other], tokens[other], best, best_token) {
                rank += 1u32;
            }
        }
        if unit == 0 {
            bound[0] = LOWEST;
        }
        sync_cube();
        if rank == count - 1 && best_token != NONE {
            bound[0] = best;
        }
        sync_cube();
        let bound = bound[0];

        let mut own = 0u32;
        let mut token = unit;
        while token < vocabulary {
            let value = logits[start + token];
            if value >= bound && value > LOWEST {
                own += 1u32;
            }
            token += 256;
        }
        sync_cube();
        tokens[unit] = own;
        sync_cube();
        let mut before = 0u32;
        let mut total = 0u32;
        for other in 0..256usize {
            if other < unit {
                before += tokens[other];
            }
            total += tokens[other];
        }

        let mut listed_values = Shared::<[f32]>::new_slice(1024usize);
        let mut listed_tokens = Shared::<[u32]>::new_slice(1024usize);
        let fits = total <= 1024u32;
        let mut at = before as usize;
        let mut token = unit;
        while token < vocabulary {
            let value = logits[start + token];
            if fits && value >= bound && value > LOWEST {
                listed_values[at] = value;
                listed_tokens[at] = token as u32;
                at += 1;
            }
            token += 256;
        }
        sync_cube();
        if unit == 0 {
            found[into] = select(fits, u32::min(total, count), NONE.runtime());
        }
        let listed = select(fits, total, 0u32) as usize;
        let mut one = unit;
        while one < listed {
            let mut rank = 0usize;
            for other in 0..listed {
                if is_before(
                    listed_values[other],
                    listed_tokens[other],
                    listed_values[one],
                    listed_tokens[one],
                ) {
                    rank += 1;
                }
            }
            if rank < count as usize {
                found[into + 1 + rank] = listed_tokens[one];
                found[into + 1 + count as usize + rank] = u32::reinterpret(listed_values[one]);
            }
            one += 256;
        }
    }
}

/// Larger first, of equals the lower token.
#[cube]
fn is_before(value: f32, token: u32, other: f32, other_token: u32) -> bool {
    value > other || (value == other && token < other_token)
}

// A bound by the units' best must leave some of them out.
const _: () = assert!(TOP_MAX < UNITS);
const _: () = assert!(UNITS == 256 && LISTED == 1024, "the kernel has them as numbers");
