//! Which handles a guest holds, written down by wrappers around the imports that give and take them.
//!
//! A wrapper calls the import and notes the handle's number with what it stands for in one of
//! [`NUMBERS_MAX`] globals, or that it is gone. So the globals tell at any time what is held.

use std::collections::BTreeMap;

use wasm_encoder::{BlockType, Function, MemArg, ValType};

/// The largest number of a handle that is followed; a guest with more at once has no image.
pub(super) const NUMBERS_MAX: u32 = 16;
/// The globals: one for each number, then the count of models opened, then whether a number was too large.
pub(super) const GLOBALS: u32 = NUMBERS_MAX + 2;
const OPENED: u32 = NUMBERS_MAX;
const OVERFLOWED: u32 = NUMBERS_MAX + 1;

/// Values of a number's global: nothing, a stream, or [`MODEL_FIRST`] and above a model, in the order in
/// which they were opened.
const NOTHING: i32 = 0;
const MODEL_FIRST: i32 = 10;

/// Something that can be taken again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Held {
    /// A model, by name.
    Model(String),
    /// A standard stream.
    Stream(Stream),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stream {
    In = 1,
    Out = 2,
    Err = 3,
}

impl Stream {
    pub(super) const ALL: [Self; 3] = [Self::In, Self::Out, Self::Err];

    /// Start of the interface's name, and the function that gives it.
    pub(super) fn source(self) -> (&'static str, &'static str) {
        match self {
            Self::In => ("wasi:cli/stdin@", "get-stdin"),
            Self::Out => ("wasi:cli/stdout@", "get-stdout"),
            Self::Err => ("wasi:cli/stderr@", "get-stderr"),
        }
    }
}

/// Start of the name of the interface of models.
pub(super) const LLM: &str = "dormouse:predictor/llm@";
/// The function that opens one.
pub(super) const OPEN: &str = "[static]model.open";

/// What an import does to the handles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// `(name, name's length, address of the result)`.
    Open,
    /// `() -> handle`.
    Get(Stream),
    /// `(handle)`.
    Drop,
}

impl Effect {
    /// What an import of a core module does, if that matters.
    pub(super) fn of(module: &str, name: &str) -> Option<Self> {
        let streams = || {
            Stream::ALL.into_iter().find(|stream| {
                let (interface, function) = stream.source();
                module.starts_with(interface) && name == function
            })
        };
        match name {
            OPEN if module.starts_with(LLM) => Some(Self::Open),
            "[resource-drop]model" if module.starts_with(LLM) => Some(Self::Drop),
            "[resource-drop]input-stream" | "[resource-drop]output-stream"
                if module.starts_with("wasi:io/streams@") =>
            {
                Some(Self::Drop)
            }
            _ => streams().map(Self::Get),
        }
    }

    /// Numbers of parameters and results, all of them i32.
    pub(super) fn shape(self) -> (usize, usize) {
        match self {
            Self::Open => (3, 0),
            Self::Get(_) => (0, 1),
            Self::Drop => (1, 0),
        }
    }

    /// The wrapper of function `import`; `note` is [`note`], the globals begin at `globals`.
    pub(super) fn wrapper(self, import: u32, note: u32, globals: u32) -> Function {
        let locals = matches!(self, Self::Get(_)).then_some((1, ValType::I32));
        let mut function = Function::new(locals);
        let mut code = function.instructions();
        match self {
            Self::Open => {
                code.local_get(0).local_get(1).local_get(2).call(import);
                // result<own<model>, error>: the tag, then the handle.
                code.local_get(2).i32_load8_u(byte(0)).i32_eqz().if_(BlockType::Empty);
                let opened = globals + OPENED;
                code.local_get(2).i32_load(word(4));
                code.global_get(opened).i32_const(MODEL_FIRST).i32_add().call(note);
                code.global_get(opened).i32_const(1).i32_add().global_set(opened);
                code.end();
            }
            Self::Get(stream) => {
                code.call(import).local_tee(0).i32_const(stream as i32).call(note).local_get(0);
            }
            Self::Drop => {
                code.local_get(0).call(import).local_get(0).i32_const(NOTHING).call(note);
            }
        }
        code.end();
        function
    }
}

/// `(number, value)`: sets the number's global.
pub(super) fn note(globals: u32) -> Function {
    let mut function = Function::new([]);
    let mut code = function.instructions();
    for number in 1..=NUMBERS_MAX {
        code.local_get(0).i32_const(number.cast_signed()).i32_eq().if_(BlockType::Empty);
        code.local_get(1).global_set(globals + number - 1).end();
    }
    code.local_get(0).i32_const(NUMBERS_MAX.cast_signed()).i32_gt_u().if_(BlockType::Empty);
    code.i32_const(1).global_set(globals + OVERFLOWED).end();
    code.end();
    function
}

/// What the globals of one module say is held, by number; `opened` are the names of models in the order in
/// which they were opened. `Err` says why that can't be taken again.
pub(super) fn held(globals: &[u64], opened: &[String]) -> Result<BTreeMap<u32, Held>, &'static str> {
    let value = |index: u32| globals.get(index as usize).copied().unwrap_or_default() as i32;
    if value(OVERFLOWED) != 0 {
        return Err("it holds more handles at once than are followed");
    }
    let mut held = BTreeMap::new();
    for number in 1..=NUMBERS_MAX {
        let what = match value(number - 1) {
            NOTHING => continue,
            stream if stream < MODEL_FIRST => {
                let stream = Stream::ALL.into_iter().find(|known| *known as i32 == stream);
                Held::Stream(stream.ok_or("its handles are not what they should be")?)
            }
            model => {
                let name = opened.get((model - MODEL_FIRST) as usize);
                Held::Model(name.ok_or("it opened models in a way that can't be followed")?.clone())
            }
        };
        held.insert(number, what);
    }
    Ok(held)
}

pub(super) fn byte(offset: u64) -> MemArg {
    MemArg { offset, align: 0, memory_index: 0 }
}

pub(super) fn word(offset: u64) -> MemArg {
    MemArg { offset, align: 2, memory_index: 0 }
}

/// The types of [`note`] and of wrappers: parameters and results.
pub(super) fn i32s(count: usize) -> Vec<ValType> {
    vec![ValType::I32; count]
}
