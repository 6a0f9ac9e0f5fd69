//! AMX: a unit that multiplies 16 x 64 by 64 x 16 signed bytes, or 16 x 32 by 32 x 16 bf16, at once
//! (Intel, 2023). Its intrinsics are not stable, so its few instructions are spelled in assembly, and
//! Linux hands out the registers on request only.
#![expect(unsafe_code, reason = "assembly")]

use std::{
    arch::{asm, x86_64::__cpuid_count},
    marker::PhantomData,
};

use crate::backend::cpu::{format::BLOCK, rows::RECORD_WORDS};

/// Proof that the machine has AMX with bytes and bf16, and that this process may use it.
#[derive(Clone, Copy)]
pub(crate) struct Amx(());

impl Amx {
    /// The proof, if it holds; asks the system for the registers.
    pub(crate) fn detect() -> Option<Self> {
        const BF16: u32 = 1 << 22;
        const TILE: u32 = 1 << 24;
        const INT8: u32 = 1 << 25;
        const ALL: u32 = BF16 | TILE | INT8;
        let has_leaf_7 = __cpuid_count(0, 0).eax >= 7;
        let has_all = has_leaf_7 && __cpuid_count(7, 0).edx & ALL == ALL;
        (has_all && request_registers()).then_some(Self(()))
    }

    /// Makes this thread's tile registers ready for `T` rows (8 or 16) of units of `columns` columns
    /// (16 or 32). Replaces what they were ready for before.
    pub(crate) fn tiles<const T: usize>(self, columns: usize) -> Tiles<T> {
        assert!((T == 8 || T == 16) && (columns == 16 || columns == 32), "{T} rows of {columns} columns");
        let (sums, activations, weights) = ([T, 64], [T, columns], [columns / 4, 64]);
        let registers = self.configure([sums, sums, sums, sums, activations, weights, activations, weights]);
        Tiles { columns, _registers: registers }
    }

    /// Makes this thread's tile registers ready for attention of up to 16 query rows. Replaces what
    /// they were ready for before.
    pub(crate) fn attention_tiles(self, rows: usize) -> AttentionTiles {
        assert!((1..=16).contains(&rows), "{rows} rows of queries");
        let (sums, queries, keys, weights, values) = ([rows, 64], [rows, 64], [16, 64], [rows, 32], [8, 64]);
        let registers = self.configure([sums, sums, sums, sums, queries, keys, weights, values]);
        AttentionTiles { rows, _registers: registers }
    }

    /// Rows and bytes of a row of each register.
    fn configure(self, shapes: [[usize; 2]; 8]) -> Registers {
        let mut config = Config([0; 64]);
        config.0[0] = 1; // The only palette.
        for (tile, [rows, row_bytes]) in shapes.into_iter().enumerate() {
            config.0[16 + 2 * tile] = row_bytes as u8;
            config.0[48 + tile] = rows as u8;
        }
        // SAFETY: `self` proves AMX and leave to use it; the operand is 64 readable bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(readonly, nostack, preserves_flags)) };
        Registers { this_thread: PhantomData }
    }
}

#[repr(align(64))]
struct Config([u8; 64]);

/// Configured tile registers; released when dropped.
struct Registers {
    /// Registers are a thread's.
    this_thread: PhantomData<*const ()>,
}

impl Drop for Registers {
    fn drop(&mut self) {
        // SAFETY: the registers are this thread's (a `Registers` doesn't leave it) and no longer used.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}

/// Tile registers for products of bytes.
pub(crate) struct Tiles<const T: usize> {
    columns: usize,
    _registers: Registers,
}

/// Sums of 16 weight rows for each of `T` activation rows.
#[repr(align(64))]
#[derive(Clone, Copy)]
pub(crate) struct Sums<const T: usize>(pub(crate) [[i32; 16]; T]);

impl<const T: usize> Tiles<T> {
    /// `sums[i][t][n] = sum_k x[i][t][k] * w[i][n][k]` over the columns of four units.
    ///
    /// `w` holds 4 columns of 16 rows in each 64 bytes, unit after unit. `x` begins with the first of
    /// the records (see `rows`) that hold the activations, one for each unit, or for two units of 16
    /// columns.
    #[inline(always)]
    pub(crate) fn multiply<const COLUMNS: usize>(&self, x: &[i32], w: &[u8], sums: &mut [Sums<T>; 4]) {
        let last = const { place_of_unit(3, T, COLUMNS) };
        assert_eq!(self.columns, COLUMNS, "columns that the registers are configured for");
        assert!(4 * x.len() >= last + 32 * (T - 1) + COLUMNS, "{} words of activations", x.len());
        assert!(w.len() >= 4 * 16 * COLUMNS, "{} bytes of weights", w.len());
        // SAFETY: a `Tiles` exists only on a thread whose registers it has configured, for `T` and
        // `COLUMNS`. The loads read `T` rows of `COLUMNS` bytes and `COLUMNS / 4` rows of 64 bytes, whose
        // presence the assertions check; each store writes `T` rows of 64 bytes, a `Sums<T>`.
        unsafe {
            // Four sums under way hide the unit's latency of some 50 cycles.
            asm!(
                "tileloadd tmm5, [{w} + {row}]",
                "tileloadd tmm4, [{x} + {half_row}]",
                "tileloadd tmm7, [{w} + {row} + {w1}]",
                "tileloadd tmm6, [{x} + {half_row} + {x1}]",
                "tilezero tmm0",
                "tdpbssd tmm0, tmm4, tmm5",
                "tilezero tmm1",
                "tdpbssd tmm1, tmm6, tmm7",
                "tileloadd tmm5, [{w} + {row} + {w2}]",
                "tileloadd tmm4, [{x} + {half_row} + {x2}]",
                "tileloadd tmm7, [{w} + {row} + {w3}]",
                "tileloadd tmm6, [{x} + {half_row} + {x3}]",
                "tilezero tmm2",
                "tdpbssd tmm2, tmm4, tmm5",
                "tilezero tmm3",
                "tdpbssd tmm3, tmm6, tmm7",
                "tilestored [{s} + {row}], tmm0",
                "tilestored [{s} + {row} + {s1}], tmm1",
                "tilestored [{s} + {row} + {s2}], tmm2",
                "tilestored [{s} + {row} + {s3}], tmm3",
                w = in(reg) w.as_ptr(),
                x = in(reg) x.as_ptr(),
                s = in(reg) sums.as_mut_ptr(),
                row = in(reg) 64usize,
                half_row = in(reg) 32usize,
                w1 = const 16 * COLUMNS,
                w2 = const 32 * COLUMNS,
                w3 = const 48 * COLUMNS,
                x1 = const place_of_unit(1, T, COLUMNS),
                x2 = const place_of_unit(2, T, COLUMNS),
                x3 = const place_of_unit(3, T, COLUMNS),
                s1 = const size_of::<Sums<T>>(),
                s2 = const 2 * size_of::<Sums<T>>(),
                s3 = const 3 * size_of::<Sums<T>>(),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags),
            );
        }
    }
}

/// Bytes from the first record to a unit's first activation.
const fn place_of_unit(unit: usize, rows: usize, columns: usize) -> usize {
    let record = 4 * RECORD_WORDS * rows;
    unit * columns / BLOCK * record + unit * columns % BLOCK
}

/// Tile registers for attention: products of bf16 that are added in f32.
pub(crate) struct AttentionTiles {
    /// Of queries.
    rows: usize,
    _registers: Registers,
}

impl AttentionTiles {
    /// `scores[b][row][p] = sum_d queries[row][d] * keys[b][p][d]` for `D = width` elements, a multiple
    /// of 32. `queries` is `[rows][D]`, `keys[b]` `[D/2][16][2]`, all bf16.
    ///
    /// Of 32 elements, the even ones are summed apart from the odd ones, from first to last; both sums
    /// are added, and then that to the sum of the elements before.
    #[inline(always)]
    pub(crate) fn score(
        &self,
        queries: &[[u8; 32]],
        width: usize,
        keys: [&[u8]; 4],
        scores: &mut [[[f32; 16]; 16]; 4],
    ) {
        assert!(width > 0 && width.is_multiple_of(32), "heads of {width}");
        assert!(queries.as_flattened().len() >= self.rows * width * 2, "{} rows of queries", self.rows);
        assert!(keys.iter().all(|keys| keys.len() >= width * 32), "keys of a block");
        // SAFETY: an `AttentionTiles` exists only on a thread whose registers it has configured. The
        // loads read `rows` rows of 64 bytes, `2 * width` apart, and 16 rows of 64 bytes, for each 32 of
        // `width` elements: the queries and keys whose presence the assertions check. Each store writes
        // `rows <= 16` rows of 64 bytes of a block's scores.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{q} + {q_row}]",
                "tileloadd tmm5, [{k0} + {row}]",
                "tdpbf16ps tmm0, tmm4, tmm5",
                "tileloadd tmm5, [{k1} + {row}]",
                "tdpbf16ps tmm1, tmm4, tmm5",
                "tileloadd tmm5, [{k2} + {row}]",
                "tdpbf16ps tmm2, tmm4, tmm5",
                "tileloadd tmm5, [{k3} + {row}]",
                "tdpbf16ps tmm3, tmm4, tmm5",
                "add {q}, 64",
                "add {k0}, 1024",
                "add {k1}, 1024",
                "add {k2}, 1024",
                "add {k3}, 1024",
                "dec {chunks}",
                "jnz 2b",
                "tilestored [{s} + {row}], tmm0",
                "tilestored [{s} + {row} + 1024], tmm1",
                "tilestored [{s} + {row} + 2048], tmm2",
                "tilestored [{s} + {row} + 3072], tmm3",
                q = inout(reg) queries.as_ptr() => _,
                k0 = inout(reg) keys[0].as_ptr() => _,
                k1 = inout(reg) keys[1].as_ptr() => _,
                k2 = inout(reg) keys[2].as_ptr() => _,
                k3 = inout(reg) keys[3].as_ptr() => _,
                chunks = inout(reg) width / 32 => _,
                s = in(reg) scores.as_mut_ptr(),
                q_row = in(reg) 2 * width,
                row = in(reg) 64usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _,
                options(nostack),
            );
        }
    }

    /// `sums[row][d] += sum_p weights[row][b][p] * values[b][p][d]` for `D = width` elements, a multiple
    /// of 64. `weights` is bf16, `values[b]` `[8][D][2]` bf16, `sums` `[rows][D]`.
    ///
    /// Of a block's 16 positions, the even ones are summed apart from the odd ones; both sums are added,
    /// and then that to the sum of the blocks before.
    #[inline(always)]
    pub(crate) fn add_values(
        &self,
        weights: &[[[u8; 32]; 4]; 16],
        values: &[&[u8]],
        width: usize,
        sums: &mut [f32],
    ) {
        assert!((1..=4).contains(&values.len()), "{} blocks", values.len());
        assert!(width > 0 && width.is_multiple_of(64), "heads of {width}");
        assert!(values.iter().all(|values| values.len() >= width * 32), "values of a block");
        assert!(sums.len() >= self.rows * width, "{} rows of sums", self.rows);
        let pages = std::array::from_fn::<_, 4, _>(|b| values[b.min(values.len() - 1)].as_ptr());
        for first in (0..width).step_by(64) {
            // SAFETY: an `AttentionTiles` exists only on a thread whose registers it has configured.
            // The loop reads as many of `pages` as there are blocks. Of each it loads 8 rows, `4 * width`
            // apart, of 4 times 64 bytes from `4 * first`, and of the weights `rows <= 16` rows of 32
            // bytes; of the sums it loads and stores `rows` rows, `4 * width` apart, of as many bytes
            // from `4 * first`. The assertions check that they are there.
            unsafe {
                asm!(
                    "tileloadd tmm0, [{s} + {row}]",
                    "tileloadd tmm1, [{s} + {row} + 64]",
                    "tileloadd tmm2, [{s} + {row} + 128]",
                    "tileloadd tmm3, [{s} + {row} + 192]",
                    "2:",
                    "mov {v}, qword ptr [{pages}]",
                    "add {v}, {offset}",
                    "tileloadd tmm6, [{w} + {w_row}]",
                    "tileloadd tmm7, [{v} + {row}]",
                    "tdpbf16ps tmm0, tmm6, tmm7",
                    "tileloadd tmm7, [{v} + {row} + 64]",
                    "tdpbf16ps tmm1, tmm6, tmm7",
                    "tileloadd tmm7, [{v} + {row} + 128]",
                    "tdpbf16ps tmm2, tmm6, tmm7",
                    "tileloadd tmm7, [{v} + {row} + 192]",
                    "tdpbf16ps tmm3, tmm6, tmm7",
                    "add {w}, 32",
                    "add {pages}, 8",
                    "dec {blocks}",
                    "jnz 2b",
                    "tilestored [{s} + {row}], tmm0",
                    "tilestored [{s} + {row} + 64], tmm1",
                    "tilestored [{s} + {row} + 128], tmm2",
                    "tilestored [{s} + {row} + 192], tmm3",
                    pages = inout(reg) pages.as_ptr() => _,
                    w = inout(reg) weights.as_ptr() => _,
                    blocks = inout(reg) values.len() => _,
                    v = out(reg) _,
                    s = in(reg) sums[first..].as_mut_ptr(),
                    offset = in(reg) 4 * first,
                    row = in(reg) 4 * width,
                    w_row = in(reg) size_of_val(&weights[0]),
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    }
}

/// Asks Linux to let this process use tile registers (`arch_prctl(ARCH_REQ_XCOMP_PERM)`, documented in
/// `Documentation/arch/x86/xstate.rst`). Elsewhere there is no leave.
fn request_registers() -> bool {
    #[cfg(target_os = "linux")]
    {
        const SYS_ARCH_PRCTL: isize = 158;
        const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
        const XFEATURE_XTILE_DATA: usize = 18;
        let result: isize;
        // SAFETY: the call takes two numbers and touches no memory; the kernel clobbers rcx and r11.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") SYS_ARCH_PRCTL => result,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XFEATURE_XTILE_DATA,
                out("rcx") _,
                out("r11") _,
                options(nostack),
            );
        }
        result == 0
    }
    #[cfg(not(target_os = "linux"))]
    false
}
