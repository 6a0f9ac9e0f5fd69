//! Adds up what the parts of a long context gave.

use cubecl_core::{self as cubecl, prelude::*};

use super::{Plan, seen, window};
use crate::backend::{
    Heads,
    gpu::{
        device::Device,
        memory::Buffer,
        step::{PART, Parts, Step},
    },
};

/// Units of a cube that adds parts up.
const SUM_UNITS: usize = 32;

/// What follows attention to rows that have several parts.
pub(super) struct Sum<'a> {
    pub(super) step: &'a Step,
    pub(super) parts: &'a Parts,
    pub(super) heads: Heads,
    pub(super) plan: Plan,
    pub(super) out: &'a Buffer,
}

impl Sum<'_> {
    /// Has the rows attended to, as many at a time as there is room for, given the first and the cubes; adds up the
    /// parts of each time, if there are some.
    pub(super) fn after_each(&self, device: &Device, attend: impl Fn(usize, CubeCount)) {
        let Self { step, parts, plan, .. } = *self;
        if parts.are_new {
            // Has the device compile it, before any row is long: what it makes of `out` is overwritten.
            self.launch(device, 0, 1);
        }
        parts.each(step.rows, |first, rows| {
            device.count();
            attend(first, plan.cubes(rows, parts));
            if parts.count > 1 {
                device.count();
                self.launch(device, first, rows);
            }
        });
    }

    fn launch(&self, device: &Device, first: usize, rows: usize) {
        let Self { step, parts, heads, plan, out } = *self;
        let of_rows = parts.of_rows.as_ref().expect("parts that are added up lie somewhere");
        // SAFETY: the parts have room for as many rows; the other shapes were checked.
        unsafe {
            add_parts::launch_unchecked(
                device.client(),
                CubeCount::Static(rows as u32, plan.query as u32, 1),
                CubeDim::new_1d(SUM_UNITS as u32),
                step.places.argument(),
                of_rows.argument(),
                out.argument(),
                first as u32,
                parts.count as u32,
                window(heads),
                plan.of_sum(),
            );
        }
    }
}

/// The parts of one head of one row, in their order.
#[cube(launch_unchecked)]
fn add_parts(
    places: &[u32],
    parts: &[f32],
    out: &mut [f32],
    first_row: u32,
    most: u32,
    window: u32,
    #[comptime] plan: Plan,
) {
    let row = first_row as usize + CUBE_POS_X as usize;
    let head = CUBE_POS_Y as usize;
    let size = comptime!(plan.size);
    let seen = seen(places, row, window, plan);
    let count = ((seen.end - 1) / 512 - seen.start / 512 + 1) as usize;
    let start = (CUBE_POS_X as usize * comptime!(plan.query) + head) * most as usize * (size + 2);
    let mut d = UNIT_POS as usize;
    while d < size {
        let mut sum = parts[start + d];
        let mut highest = parts[start + size];
        let mut weight_sum = parts[start + size + 1];
        for part in 1..count {
            let at = start + part * (size + 2);
            let of_part = parts[at + size];
            let top = f32::max(highest, of_part);
            let factor = f32::exp(highest - top);
            let of_part = f32::exp(of_part - top);
            sum = sum * factor + parts[at + d] * of_part;
            weight_sum = weight_sum * factor + parts[at + size + 1] * of_part;
            highest = top;
        }
        out[(row * comptime!(plan.query) + head) * size + d] = sum / weight_sum;
        d += 32;
    }
}

const _: () = assert!(PART == 512 && SUM_UNITS == 32, "the kernel above has them as numbers");
