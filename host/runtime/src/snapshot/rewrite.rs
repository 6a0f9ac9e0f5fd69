//! A state put back into the component it was read from: the image.

use wasm_encoder::{
    Alias, BlockType, CanonicalFunctionSection, CanonicalOption, CodeSection, Component,
    ComponentAliasSection, ComponentExportKind, ComponentExportSection, ComponentTypeSection,
    ComponentValType, ConstExpr, DataSection, EntityType, ExportKind, ExportSection, Function,
    FunctionSection, GlobalSection, GlobalType, ImportSection, InstanceSection, MemorySection, MemoryType,
    Module, ModuleArg, ModuleSection, PrimitiveValType, RawSection, TypeSection, ValType,
};

use super::{
    RESTORE, Refusal, SET_UP, State,
    handles::{Held, LLM, OPEN, byte, i32s, word},
    outline::{Outline, Section},
    state::ModuleState,
};

/// Addresses in the restorer's memory: what `open` answers, what it answers itself, the text for one of the
/// errors, the names of models, and where texts of errors go.
const ANSWER: i32 = 0;
const RESULT: i32 = 32;
const CANCELLED_AT: i32 = 64;
const CANCELLED: &str = "cancelled";
const NAMES_AT: i32 = 128;
const HEAP_AT: i32 = PAGE_BYTES;
const PAGE_BYTES: i32 = 64 << 10;
/// Tag of `error.cancelled`, the one without a text.
const CANCELLED_TAG: i32 = 4;

impl State {
    /// The image of the component `wasm` with this state.
    pub(crate) fn image(&self, wasm: &[u8]) -> Result<Vec<u8>, Refusal> {
        let outline = Outline::read(wasm)?;
        let setup = outline.setup.ok_or_else(|| Refusal::new("it exports no `setup`"))?;
        if self.names().map(str::len).sum::<usize>() > (HEAP_AT - NAMES_AT) as usize {
            return Err(Refusal::new("the names of its models are too long"));
        }
        let none = ModuleState::default();
        let mut component = Component::new();
        let mut index = 0;
        for section in &outline.sections {
            match section {
                Section::Module(module) => {
                    if outline.instantiated.contains_key(&index) {
                        let written = module.with(self.modules.get(&index).unwrap_or(&none))?;
                        let id = wasm_encoder::ComponentSectionId::CoreModule as u8;
                        component.section(&RawSection { id, data: &written });
                    } else {
                        component.section(&module.as_it_is());
                    }
                    index += 1;
                }
                Section::Other { id, data } => _ = component.section(&RawSection { id: *id, data }),
            }
        }
        let mut exports = ComponentExportSection::new();
        exports.export(SET_UP, ComponentExportKind::Func, setup, None);
        if !self.handles.is_empty() {
            // The export above is a function too.
            let lifted = self.restorer(&outline, &mut component)?;
            exports.export(RESTORE, ComponentExportKind::Func, lifted, None);
        }
        component.section(&exports);
        Ok(component.finish())
    }

    /// Adds what takes the handles again: a memory for names and answers, and a module that calls the
    /// imports in the order of the handles' numbers. Gives the index of its lifted function.
    fn restorer(&self, outline: &Outline<'_>, component: &mut Component) -> Result<u32, Refusal> {
        let counts = &outline.counts;
        component.section(&ModuleSection(&self.heap()));
        component.section(&ModuleSection(&self.opener()));
        let mut instances = InstanceSection::new();
        instances.instantiate(counts.modules, Vec::<(&str, ModuleArg)>::new());
        component.section(&instances);

        let heap = counts.core_instances;
        let mut aliases = ComponentAliasSection::new();
        aliases.alias(Alias::CoreInstanceExport { instance: heap, kind: ExportKind::Memory, name: "memory" });
        aliases.alias(Alias::CoreInstanceExport { instance: heap, kind: ExportKind::Func, name: "realloc" });
        for held in self.handles.values() {
            let (interface, name) = held.source();
            let instance = outline
                .import(interface)
                .ok_or_else(|| Refusal::new(format!("it imports `{name}` from an unknown place")))?;
            aliases.alias(Alias::InstanceExport { instance, kind: ComponentExportKind::Func, name });
        }
        component.section(&aliases);

        let (memory, realloc) = (counts.core_memories, counts.core_funcs);
        let mut lowered = CanonicalFunctionSection::new();
        for (index, held) in (0..).zip(self.handles.values()) {
            let options = match held {
                Held::Model(_) => vec![
                    CanonicalOption::Memory(memory),
                    CanonicalOption::Realloc(realloc),
                    CanonicalOption::UTF8,
                ],
                Held::Stream(_) => Vec::new(),
            };
            lowered.lower(counts.funcs + index, options);
        }
        component.section(&lowered);

        let count = u32::try_from(self.handles.len())?;
        let names: Vec<_> = (0..count).map(|index| index.to_string()).collect();
        let mut instances = InstanceSection::new();
        instances.export_items(
            (realloc + 1..)
                .zip(&names)
                .map(|(index, name)| (name.as_str(), ExportKind::Func, index))
                .collect::<Vec<_>>(),
        );
        instances.instantiate(
            counts.modules + 1,
            [("heap", ModuleArg::Instance(heap)), ("host", ModuleArg::Instance(heap + 1))],
        );
        component.section(&instances);

        let mut aliases = ComponentAliasSection::new();
        let instance = heap + 2;
        aliases.alias(Alias::CoreInstanceExport { instance, kind: ExportKind::Func, name: "restore" });
        component.section(&aliases);
        let mut types = ComponentTypeSection::new();
        types.defined_type().result(None, Some(ComponentValType::Primitive(PrimitiveValType::String)));
        types
            .function()
            .params(std::iter::empty::<(&str, ComponentValType)>())
            .result(Some(ComponentValType::Type(counts.types)));
        component.section(&types);
        let mut lifted = CanonicalFunctionSection::new();
        let options = [CanonicalOption::Memory(memory), CanonicalOption::UTF8];
        lifted.lift(realloc + 1 + count, counts.types + 1, options);
        component.section(&lifted);
        Ok(counts.funcs + count)
    }

    /// Memory with the names in it, and room for the texts of errors.
    fn heap(&self) -> Module {
        let mut types = TypeSection::new();
        types.ty().function(i32s(4), i32s(1));
        let mut functions = FunctionSection::new();
        functions.function(0);
        let mut memories = MemorySection::new();
        memories.memory(MemoryType {
            minimum: 2,
            maximum: None,
            memory64: false,
            shared: false,
            page_size_log2: None,
        });
        let mut globals = GlobalSection::new();
        let pointer = GlobalType { val_type: ValType::I32, mutable: true, shared: false };
        globals.global(pointer, &ConstExpr::i32_const(HEAP_AT));
        let mut exports = ExportSection::new();
        exports.export("memory", ExportKind::Memory, 0).export("realloc", ExportKind::Func, 0);
        // Gives the next bytes, all of alignment 1, as texts are; an access beyond the memory traps.
        let mut realloc = Function::new([]);
        let mut code = realloc.instructions();
        code.global_get(0).global_get(0).local_get(3).i32_add().global_set(0).end();
        let mut bodies = CodeSection::new();
        bodies.function(&realloc);
        let mut data = DataSection::new();
        data.active(0, &ConstExpr::i32_const(CANCELLED_AT), CANCELLED.bytes());
        data.active(
            0,
            &ConstExpr::i32_const(NAMES_AT),
            self.names().flat_map(str::bytes).collect::<Vec<_>>(),
        );
        let mut module = Module::new();
        module.section(&types).section(&functions).section(&memories).section(&globals);
        module.section(&exports).section(&bodies).section(&data);
        module
    }

    /// The module that calls the imports.
    fn opener(&self) -> Module {
        let mut types = TypeSection::new();
        types.ty().function(i32s(3), []);
        types.ty().function([], i32s(1));
        let mut imports = ImportSection::new();
        let memory =
            MemoryType { minimum: 2, maximum: None, memory64: false, shared: false, page_size_log2: None };
        imports.import("heap", "memory", memory);
        for (index, held) in self.handles.values().enumerate() {
            let ty = u32::from(matches!(held, Held::Stream(_)));
            imports.import("host", &index.to_string(), EntityType::Function(ty));
        }
        let mut functions = FunctionSection::new();
        functions.function(1);
        let own = u32::try_from(self.handles.len()).expect("there are few handles");
        let mut exports = ExportSection::new();
        exports.export("restore", ExportKind::Func, own);
        let mut bodies = CodeSection::new();
        bodies.function(&self.restore());
        let mut module = Module::new();
        module.section(&types).section(&imports).section(&functions).section(&exports).section(&bodies);
        module
    }

    /// Takes each handle and traps if it got another number than it had; answers with an error's text.
    fn restore(&self) -> Function {
        let mut function = Function::new([]);
        let mut code = function.instructions();
        let mut name_at = NAMES_AT;
        for (import, (number, held)) in (0..).zip(&self.handles) {
            if let Held::Model(name) = held {
                let bytes = i32::try_from(name.len()).expect("it was a text of a 32-bit guest");
                code.i32_const(name_at).i32_const(bytes).i32_const(ANSWER).call(import);
                name_at += bytes;
                code.i32_const(ANSWER).i32_load8_u(byte(0)).if_(BlockType::Empty);
                code.i32_const(RESULT).i32_const(1).i32_store8(byte(0));
                // The error's tag, then its text.
                code.i32_const(ANSWER).i32_load8_u(byte(4)).i32_const(CANCELLED_TAG).i32_eq();
                code.if_(BlockType::Empty);
                code.i32_const(RESULT).i32_const(CANCELLED_AT).i32_store(word(4));
                code.i32_const(RESULT).i32_const(CANCELLED.len() as i32).i32_store(word(8));
                code.else_();
                code.i32_const(RESULT).i32_const(ANSWER).i32_load(word(8)).i32_store(word(4));
                code.i32_const(RESULT).i32_const(ANSWER).i32_load(word(12)).i32_store(word(8));
                code.end().i32_const(RESULT).return_().end();
                code.i32_const(ANSWER).i32_load(word(4));
            } else {
                code.call(import);
            }
            code.i32_const(number.cast_signed()).i32_ne().if_(BlockType::Empty).unreachable().end();
        }
        code.i32_const(RESULT).end();
        function
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.handles.values().filter_map(|held| match held {
            Held::Model(name) => Some(name.as_str()),
            Held::Stream(_) => None,
        })
    }
}

impl Held {
    /// Start of the interface's name, and the function that gives it.
    fn source(&self) -> (&'static str, &'static str) {
        match self {
            Self::Model(_) => (LLM, OPEN),
            Self::Stream(stream) => stream.source(),
        }
    }
}
