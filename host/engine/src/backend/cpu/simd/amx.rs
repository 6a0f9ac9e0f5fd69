//! AMX: a unit that multiplies 16 x 32 by 32 x 16 bf16 at once (Intel, 2023). Its intrinsics are not
//! stable, so its few instructions are spelled in assembly, and Linux hands out the registers on request
//! only. (It multiplies twice as many bytes; but then every 32 columns' sums must be scaled by vectors,
//! between which and the unit little overlaps: no faster than vectors alone, as measured.)
#![expect(unsafe_code, reason = "assembly")]

use std::{
    arch::{asm, x86_64::__cpuid_count},
    marker::PhantomData,
};

use super::{Line, Sums};

/// Proof that the machine has AMX with bf16, and that this process may use it.
#[derive(Clone, Copy)]
pub(crate) struct Amx(());

impl Amx {
    /// The proof, if it holds; asks the system for the registers.
    pub(crate) fn detect() -> Option<Self> {
        const BF16: u32 = 1 << 22;
        const TILE: u32 = 1 << 24;
        const ALL: u32 = BF16 | TILE;
        let has_leaf_7 = __cpuid_count(0, 0).eax >= 7;
        let has_all = has_leaf_7 && __cpuid_count(7, 0).edx & ALL == ALL;
        (has_all && request_registers()).then_some(Self(()))
    }

    /// Makes this thread's tile registers ready for products of two tiles of up to 16 rows, of which the
    /// second may be empty. Replaces what they were ready for before.
    pub(crate) fn matrix_tiles(self, rows: [usize; 2]) -> MatrixTiles {
        assert!((1..=16).contains(&rows[0]) && rows[1] <= 16, "tiles of {rows:?} rows");
        let [first, second] = rows.map(|rows| if rows > 0 { [rows, 64] } else { [0, 0] });
        let shapes = [first, first, second, second, first, second, [16, 64], [16, 64]];
        MatrixTiles { rows, _registers: self.configure(shapes) }
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

/// Tile registers for two tiles of rows times two panels: products of bf16 that are added in f32.
pub(crate) struct MatrixTiles {
    rows: [usize; 2],
    _registers: Registers,
}

impl MatrixTiles {
    /// Rows that each tile has.
    pub(crate) fn rows(&self) -> [usize; 2] {
        self.rows
    }

    /// `sums[i][j][t][n] = sum_k x[i][t][k] * w[j][n][k]`. Of each 32 columns, `x[i]` has a line for each
    /// of 16 rows, and `w[j]` a line for each pair of columns, of 16 rows. Without a second tile, its sums
    /// stay as they are.
    #[inline(always)]
    pub(crate) fn multiply(&self, x: [&[Line]; 2], w: [&[Line]; 2], sums: &mut [[Sums; 2]; 2]) {
        let units = w[0].len() / 16;
        assert!(units > 0 && w[0].len().is_multiple_of(16) && w[1].len() == w[0].len(), "whole panels");
        assert!(x.iter().all(|x| x.len() >= w[0].len()), "rows as wide as the panels");
        if self.rows[1] == 0 {
            // SAFETY: a `MatrixTiles` exists only on a thread whose registers it has configured. Each
            // turn loads up to 16 lines of the rows and 16 of each panel, whose presence the assertions
            // check; each store writes up to 16 rows of 64 bytes, a `Sums`.
            unsafe {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "2:",
                    "tileloadd tmm4, [{x} + {row}]",
                    "tileloadd tmm6, [{w0} + {row}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{w1} + {row}]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "add {x}, 1024",
                    "add {w0}, 1024",
                    "add {w1}, 1024",
                    "dec {units}",
                    "jnz 2b",
                    "tilestored [{s} + {row}], tmm0",
                    "tilestored [{s} + {row} + 1024], tmm1",
                    x = inout(reg) x[0].as_ptr() => _,
                    w0 = inout(reg) w[0].as_ptr() => _,
                    w1 = inout(reg) w[1].as_ptr() => _,
                    units = inout(reg) units => _,
                    s = in(reg) sums.as_mut_ptr(),
                    row = in(reg) 64usize,
                    out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
            return;
        }
        // SAFETY: as above, for two tiles of rows.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{x0} + {row}]",
                "tileloadd tmm6, [{w0} + {row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{w1} + {row}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{x1} + {row}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {x0}, 1024",
                "add {x1}, 1024",
                "add {w0}, 1024",
                "add {w1}, 1024",
                "dec {units}",
                "jnz 2b",
                "tilestored [{s} + {row}], tmm0",
                "tilestored [{s} + {row} + 1024], tmm1",
                "tilestored [{s} + {row} + 2048], tmm2",
                "tilestored [{s} + {row} + 3072], tmm3",
                x0 = inout(reg) x[0].as_ptr() => _,
                x1 = inout(reg) x[1].as_ptr() => _,
                w0 = inout(reg) w[0].as_ptr() => _,
                w1 = inout(reg) w[1].as_ptr() => _,
                units = inout(reg) units => _,
                s = in(reg) sums.as_mut_ptr(),
                row = in(reg) 64usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

const _: () = assert!(size_of::<Sums>() == 1024 && size_of::<Line>() == 64);

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
