//! Counts its predictions, in every place where a guest could keep a number.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU32, Ordering},
};

use dormouse_guest::prelude::*;

static IN_STATIC: AtomicU32 = AtomicU32::new(0);

#[derive(Input)]
struct Input {}

#[derive(Output)]
struct Counts {
    in_static: u32,
    in_predictor: u32,
}

#[derive(Default)]
struct Counter {
    count: Cell<u32>,
}

#[predictor(name = "counter")]
impl Predictor for Counter {
    type Input = Input;
    type Output = Counts;

    fn predict(&self, _: Input) -> Result<Counts> {
        self.count.set(self.count.get() + 1);
        Ok(Counts {
            in_static: IN_STATIC.fetch_add(1, Ordering::Relaxed) + 1,
            in_predictor: self.count.get(),
        })
    }
}
