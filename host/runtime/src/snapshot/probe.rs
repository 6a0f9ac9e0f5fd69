//! A component through whose exports its state can be read.
//!
//! To the author's component one module is added, the reader: it imports every memory and variable of the
//! others and has functions that give a memory's pages, one at a time by way of a memory of its own, and
//! the bits of a global. Nothing of what is read changes by that.

use wasm_encoder::{
    Alias, CanonicalFunctionSection, CanonicalOption, CodeSection, Component, ComponentAliasSection,
    ComponentExportKind, ComponentExportSection, ComponentTypeSection, ComponentValType, EntityType,
    ExportKind, ExportSection, Function, FunctionSection, ImportSection, InstanceSection, MemArg,
    MemorySection, MemoryType, Module, ModuleArg, ModuleSection, PrimitiveValType, RawSection, TypeSection,
    ValType,
    reencode::{Reencode, RoundtripReencoder},
};
use wasmtime::{
    AsContextMut, Store,
    component::{Instance, WasmList},
};

use super::{
    Refusal, State,
    handles::{self, Effect},
    module::{global_name, handle_name, memory_name},
    outline::{Outline, Section},
    state::{MemoryState, ModuleState},
};

/// Bytes of the reader's own memory, which an instance needs beside the author's.
pub(crate) const READER_BYTES: usize = 2 * PAGE_BYTES as usize;
const PAGE_BYTES: i32 = 64 << 10;
/// Where the reader keeps a page, and before it where that is.
const PAGE_AT: i32 = PAGE_BYTES;

/// A component with exports that tell its state.
pub(crate) struct Probe {
    pub(crate) wasm: Vec<u8>,
    reads: Vec<Read>,
}

/// What an export tells: of which module, and of which of its parts.
#[derive(Debug, Clone, Copy)]
struct Read {
    module: u32,
    what: What,
}

#[derive(Debug, Clone, Copy)]
enum What {
    /// Number of a memory's pages.
    Pages,
    /// One of its pages.
    Page,
    Global(usize, ValType),
    /// A global of [`handles`].
    Handle,
}

/// Name of the export of a read.
fn name(index: usize) -> String {
    format!("state-r{index}")
}

impl Probe {
    /// Prepares a component for being read. The error says why it has no image.
    pub(crate) fn new(wasm: &[u8]) -> Result<Self, Refusal> {
        let outline = Outline::read(wasm)?;
        let openers =
            outline.modules().filter(|(_, module)| module.effects.values().any(|e| *e == Effect::Open));
        if openers.count() > 1 {
            return Err(Refusal::new("several of its modules open models"));
        }
        let mut component = Component::new();
        let mut index = 0;
        for section in &outline.sections {
            match section {
                Section::Module(module) => {
                    if outline.instantiated.contains_key(&index) {
                        let probed = module.probed()?;
                        let id = wasm_encoder::ComponentSectionId::CoreModule as u8;
                        component.section(&RawSection { id, data: &probed });
                    } else {
                        component.section(&module.as_it_is());
                    }
                    index += 1;
                }
                Section::Other { id, data } => _ = component.section(&RawSection { id: *id, data }),
            }
        }
        let reader = Reader::of(&outline)?;
        reader.add_to(&outline, &mut component);
        Ok(Self { wasm: component.finish(), reads: reader.reads })
    }

    /// Reads the state of an instance of [`Self::wasm`]. `opened` are the names of models in the order in
    /// which it opened them, `resources` is the number of things that the host keeps for it.
    pub(crate) async fn read<T: Send>(
        &self,
        store: &mut Store<T>,
        instance: &Instance,
        opened: &[String],
        resources: usize,
        bytes_max: u64,
    ) -> wasmtime::Result<Result<State, Refusal>> {
        let mut state = State::default();
        let mut noted: Vec<(u32, Vec<u64>)> = Vec::new();
        let mut bytes = 0;
        let mut pages = 0;
        for (index, read) in self.reads.iter().enumerate() {
            let module: &mut ModuleState = state.modules.entry(read.module).or_default();
            match read.what {
                What::Pages => {
                    pages = call::<(), u32>(store, instance, index, ()).await?;
                    bytes += u64::from(pages) * PAGE_BYTES as u64;
                    if bytes > bytes_max {
                        let reason =
                            format!("it has {bytes} bytes of memory after setup, an image takes {bytes_max}");
                        return Ok(Err(Refusal::new(reason)));
                    }
                    module.memories.push(MemoryState::default());
                }
                What::Page => {
                    let memory = module.memories.last_mut().expect("its size was read first");
                    for page in 0..pages {
                        let list: WasmList<u8> = call(store, instance, index, (page,)).await?;
                        memory.add(list.as_le_slice(&*store));
                    }
                }
                What::Global(global, _) => {
                    module.globals.insert(global, call::<(), u64>(store, instance, index, ()).await?);
                }
                What::Handle => {
                    let value = call::<(), u64>(store, instance, index, ()).await?;
                    match noted.last_mut() {
                        Some((known, values)) if *known == read.module => values.push(value),
                        _ => noted.push((read.module, vec![value])),
                    }
                }
            }
        }
        for (_, values) in &noted {
            match handles::held(values, opened) {
                Ok(held) if held.keys().all(|number| !state.handles.contains_key(number)) => {
                    state.handles.extend(held);
                }
                Ok(_) => return Ok(Err(Refusal::new("two of its modules share a handle"))),
                Err(reason) => return Ok(Err(Refusal::new(reason))),
            }
        }
        Ok(state.check_handles(resources).map(|()| state))
    }
}

impl State {
    /// What is taken again gets the numbers from one up, so these must be those that are held.
    fn check_handles(&self, resources: usize) -> Result<(), Refusal> {
        if self.handles.len() != resources {
            return Err(Refusal::new("it holds something of the host besides models and standard streams"));
        }
        if !self.handles.keys().copied().eq((1..).take(self.handles.len())) {
            return Err(Refusal::new("it closed handles that it opened before others"));
        }
        Ok(())
    }
}

async fn call<P, R>(
    store: &mut Store<impl Send>,
    instance: &Instance,
    index: usize,
    params: P,
) -> wasmtime::Result<R>
where
    P: wasmtime::component::ComponentNamedList + wasmtime::component::Lower + Send + Sync + 'static,
    R: wasmtime::component::Lift + Send + Sync + 'static,
    (R,): wasmtime::component::ComponentNamedList + wasmtime::component::Lift,
{
    let function = instance.get_typed_func::<P, (R,)>(&mut *store, &*name(index))?;
    let (result,) = function.call_async(store.as_context_mut(), params).await?;
    Ok(result)
}

/// The added module as it is put together.
struct Reader {
    reads: Vec<Read>,
    imports: ImportSection,
    /// Indices of what it imports: memories, globals.
    memories: u32,
    globals: u32,
    /// For each read, where its index is.
    targets: Vec<u32>,
}

impl Reader {
    fn of(outline: &Outline<'_>) -> Result<Self, Refusal> {
        let mut reader = Self {
            reads: Vec::new(),
            imports: ImportSection::new(),
            memories: 0,
            globals: 0,
            targets: Vec::new(),
        };
        for (index, module) in outline.modules() {
            for (memory, ty) in module.memories() {
                let ty = RoundtripReencoder.memory_type(ty)?;
                reader.imports.import(&index.to_string(), &memory_name(memory), ty);
                for what in [What::Pages, What::Page] {
                    reader.add(index, what, reader.memories);
                }
                reader.memories += 1;
            }
            for (global, ty) in module.variables() {
                let ty = RoundtripReencoder.global_type(ty)?;
                reader.import_global(index, &global_name(global), ty);
                reader.add(index, What::Global(global, ty.val_type), reader.globals - 1);
            }
            if !module.effects.is_empty() {
                for handle in 0..handles::GLOBALS {
                    let ty =
                        wasm_encoder::GlobalType { val_type: ValType::I32, mutable: true, shared: false };
                    reader.import_global(index, &handle_name(handle), ty);
                    reader.add(index, What::Handle, reader.globals - 1);
                }
            }
        }
        Ok(reader)
    }

    fn import_global(&mut self, module: u32, name: &str, ty: wasm_encoder::GlobalType) {
        self.imports.import(&module.to_string(), name, EntityType::Global(ty));
        self.globals += 1;
    }

    fn add(&mut self, module: u32, what: What, target: u32) {
        self.reads.push(Read { module, what });
        self.targets.push(target);
    }

    fn module(&self) -> Module {
        let mut types = TypeSection::new();
        types.ty().function([], [ValType::I32]);
        types.ty().function([ValType::I32], [ValType::I32]);
        types.ty().function([], [ValType::I64]);
        let mut functions = FunctionSection::new();
        let mut exports = ExportSection::new();
        let mut code = CodeSection::new();
        for (function, (read, target)) in (0..).zip(self.reads.iter().zip(&self.targets)) {
            functions.function(read.what.core_type());
            exports.export(&name(function as usize), ExportKind::Func, function);
            code.function(&read.what.function(*target, self.memories));
        }
        exports.export("memory", ExportKind::Memory, self.memories);
        let mut memories = MemorySection::new();
        memories.memory(MemoryType {
            minimum: 2,
            maximum: Some(2),
            memory64: false,
            shared: false,
            page_size_log2: None,
        });
        let mut module = Module::new();
        module.section(&types).section(&self.imports).section(&functions).section(&memories);
        module.section(&exports).section(&code);
        module
    }

    /// Adds the module, an instance of it and the component's exports.
    fn add_to(&self, outline: &Outline<'_>, component: &mut Component) {
        let counts = &outline.counts;
        component.section(&ModuleSection(&self.module()));
        let mut instances = InstanceSection::new();
        let sources: Vec<_> = outline.modules().map(|(index, _)| index.to_string()).collect();
        let arguments = sources
            .iter()
            .zip(outline.modules())
            .map(|(name, (index, _))| (name.as_str(), ModuleArg::Instance(outline.instantiated[&index])));
        instances.instantiate(counts.modules, arguments.collect::<Vec<_>>());
        component.section(&instances);

        let instance = counts.core_instances;
        let mut aliases = ComponentAliasSection::new();
        aliases.alias(Alias::CoreInstanceExport { instance, kind: ExportKind::Memory, name: "memory" });
        for index in 0..self.reads.len() {
            let name = name(index);
            aliases.alias(Alias::CoreInstanceExport { instance, kind: ExportKind::Func, name: &name });
        }
        component.section(&aliases);

        let mut types = ComponentTypeSection::new();
        let list = counts.types;
        let primitive = |ty| ComponentValType::Primitive(ty);
        let none = || std::iter::empty::<(&str, ComponentValType)>();
        types.defined_type().list(PrimitiveValType::U8);
        types.function().params(none()).result(Some(primitive(PrimitiveValType::U32)));
        types
            .function()
            .params([("page", primitive(PrimitiveValType::U32))])
            .result(Some(ComponentValType::Type(list)));
        types.function().params(none()).result(Some(primitive(PrimitiveValType::U64)));
        component.section(&types);

        let mut functions = CanonicalFunctionSection::new();
        let mut exports = ComponentExportSection::new();
        for (index, read) in (0..).zip(&self.reads) {
            let memory =
                matches!(read.what, What::Page).then_some(CanonicalOption::Memory(counts.core_memories));
            functions.lift(counts.core_funcs + index, list + 1 + read.what.core_type(), memory);
            let name = name(index as usize);
            exports.export(name.as_str(), ComponentExportKind::Func, counts.funcs + index, None);
        }
        component.section(&functions);
        component.section(&exports);
    }
}

impl What {
    /// Index among the reader's types; the component's have the same order.
    fn core_type(self) -> u32 {
        match self {
            Self::Pages => 0,
            Self::Page => 1,
            Self::Global(..) | Self::Handle => 2,
        }
    }

    /// The function that reads index `target`; the reader's own memory is number `own`.
    fn function(self, target: u32, own: u32) -> Function {
        let mut function = Function::new([]);
        let mut code = function.instructions();
        let field = |offset| MemArg { offset, align: 2, memory_index: own };
        match self {
            Self::Pages => _ = code.memory_size(target),
            Self::Page => {
                code.i32_const(PAGE_AT);
                code.local_get(0).i32_const(PAGE_BYTES.ilog2().cast_signed()).i32_shl();
                code.i32_const(PAGE_BYTES).memory_copy(own, target);
                code.i32_const(0).i32_const(PAGE_AT).i32_store(field(0));
                code.i32_const(0).i32_const(PAGE_BYTES).i32_store(field(4));
                code.i32_const(0);
            }
            Self::Global(_, ValType::I64) => _ = code.global_get(target),
            Self::Global(_, ValType::F32) => {
                _ = code.global_get(target).i32_reinterpret_f32().i64_extend_i32_u()
            }
            Self::Global(_, ValType::F64) => _ = code.global_get(target).i64_reinterpret_f64(),
            Self::Global(..) | Self::Handle => _ = code.global_get(target).i64_extend_i32_u(),
        }
        code.end();
        function
    }
}
