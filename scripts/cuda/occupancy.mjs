// How many blocks of a kernel a multiprocessor holds at once: NVIDIA's formulas (cuda_occupancy.h of the toolkit, against which
// test/cuda-check compares these) for the GPUs that have budgets.

/** Of a multiprocessor; shared memory in bytes, as much of the first-level cache as can be had. */
const limits = {
  sm_80: { warps: 64, blocks: 32, registers: 65536, shared: 164 * 1024, sharedOfBlock: 163 * 1024 },
  sm_86: { warps: 48, blocks: 16, registers: 65536, shared: 100 * 1024, sharedOfBlock: 99 * 1024 },
  sm_89: { warps: 48, blocks: 24, registers: 65536, shared: 100 * 1024, sharedOfBlock: 99 * 1024 },
  sm_90: { warps: 64, blocks: 32, registers: 65536, shared: 228 * 1024, sharedOfBlock: 227 * 1024 },
};

const warpThreads = 32;
/** A multiprocessor has four schedulers, each with a quarter of the registers. */
const schedulers = 4;
const registersAtOnce = 256;
const sharedAtOnce = 128;
/** The system keeps these for itself in every block. */
const reservedShared = 1024;

const up = (number, unit) => Math.ceil(number / unit) * unit;

/**
 * @param {keyof typeof limits} architecture
 * @param {{ threads: number, registers: number, shared: number }} kernel threads a block, registers a thread, bytes of shared
 *   memory a block, static and dynamic
 * @returns {{ blocks: number, warps: number, share: number }} of a multiprocessor; `share`: of the warps there can be
 */
export function occupancy(architecture, { threads, registers, shared }) {
  const limit = limits[architecture];
  const warps = Math.ceil(threads / warpThreads);
  const ofWarp = up(registers * warpThreads, registersAtOnce);
  const warpsByRegisters = ofWarp === 0 ? limit.warps : Math.floor(limit.registers / schedulers / ofWarp) * schedulers;
  // Whether a block can be at all is asked as if its warps were spread over the schedulers evenly.
  const isPossible = ofWarp * up(warps, schedulers) <= limit.registers;
  const bySharedMemory = shared > limit.sharedOfBlock ? 0 : limit.shared / up(shared + reservedShared, sharedAtOnce);
  const most = Math.min(limit.blocks, limit.warps / warps, warpsByRegisters / warps, bySharedMemory);
  const blocks = isPossible ? Math.floor(most) : 0;
  return { blocks, warps: blocks * warps, share: (blocks * warps) / limit.warps };
}
