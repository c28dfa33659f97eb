// Loads the native binary and mirrors its exports. Nothing else requires it.
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { HadalError } from '../core/errors.js';
import { explainLoadFailure } from './load-failure.js';

/** A block of native memory. */
export interface NativeStorage {
  readonly bytes: number;
  dispose(): void;
}

/** A file without a name that blocks lie in. */
export interface NativeFile {
  dispose(): void;
}

/** Decoded instructions. */
export interface NativeProgram {
  readonly arenaBytes: number;
}

/** One entry of a schedule. */
export interface NativeScheduleEntry {
  program: NativeProgram;
  slots: NativeStorage[];
  inputs: NodeJS.TypedArray[];
}

/** An executor thread with its own OpenMP pool. Calls run in the order they were made. */
export interface NativeDevice {
  readonly threads: number;
  /** Bytes of this device's blocks, now and at most; free and in all on the device (0: no memory of its own). */
  memory(): { live: number; peak: number; free: number; total: number };
  /** Milliseconds that collectives took, that the computation waited for them, of timed instructions, and, when profiling, of each. */
  run(schedule: NativeScheduleEntry[], arena: NativeStorage, profile: boolean): Promise<Float64Array>;
  /** The group of an axis of the mesh (by its number), whose collectives programs call; null: none any more. */
  setGroup(axis: number, group: NativeProcessGroup | null): void;
  read(storage: NativeStorage, offset: number, target: NodeJS.TypedArray): Promise<void>;
  write(storage: NativeStorage, offset: number, source: NodeJS.TypedArray): Promise<void>;
  /** Copies whole storages as they are after what was called before, while what is called later goes on. */
  snapshot(storages: NativeStorage[], targets: NodeJS.TypedArray[]): Promise<void>;
  /** Has the system provide the arrays' memory now; nothing of their contents is kept. */
  prepare(targets: NodeJS.TypedArray[]): Promise<void>;
  shutdown(): void;
}

/** What a member of a process group is made from. */
export interface NativeProcessGroupOptions {
  backend: 'gloo' | 'nccl';
  rank: number;
  size: number;
  /** Name or address by which the others reach this process; what it listens on is bound to it. Default: 127.0.0.1. */
  host?: string;
  /** That a collective waits for the others, and connecting does. */
  timeoutMs: number;
  /** File of the backend's library; default: the usual one. */
  library?: string;
  /** The GPU that NCCL is to use; default: CUDA's first. */
  device?: number;
}

/**
 * Processes that compute together: one member. Made alone; joined by exchanging addresses, whose meaning is the backend's.
 * Errors of all but `connect` come from the kernels that call it.
 */
export interface NativeProcessGroup {
  readonly rank: number;
  readonly size: number;
  /** What the others must know to connect; empty where they need nothing of this rank. */
  readonly address: Uint8Array;
  /** Connects to all, whose addresses are given in the order of ranks. Rejects naming the ranks that do not answer. */
  connect(addresses: Uint8Array[]): Promise<void>;
  /** From now on all-reduces of so many bytes go in two levels: inside this rank's box, and across the boxes. */
  useLevels(box: NativeProcessGroup, across: NativeProcessGroup, leastBytes: number): void;
  /** Milliseconds that messages to and from another rank take one way; that rank calls it at the same time. */
  timeExchange(peer: number, bytes: number, times: number): Promise<number[]>;
  /** Lets what is under way fail with this reason. */
  abort(reason: string): void;
  /** Bytes that went over the wire so far. */
  wireBytes(): { sent: number; received: number };
  dispose(): void;
}

/** A params field of a kernel. */
export interface KernelField {
  name: string;
  type: 'int64' | 'float64' | 'dtype' | 'bytes';
  offset: number;
  count: number;
}

/** A kernel's params layout and the instruction set it is compiled for. */
export interface KernelInfo {
  paramsBytes: number;
  fields: KernelField[];
  isa: 'portable' | 'avx2' | 'avx512' | 'avx512bf16';
}

/** A buffer a kernel touches; 0 bytes: may be absent. */
export interface BufferInfo {
  name: string;
  bytes: number;
  access: 'in' | 'out' | 'inout';
  /** May be absent whatever its size. */
  isOptional: boolean;
}

/** A library of kernels for a kind of device. */
export interface NativeBackend {
  /** Whether the library is there. */
  isBuilt: boolean;
  devices: { name: string; major: number; minor: number; processors: number; memoryBytes: number }[];
  /** Versions, as lines. */
  libraries: string[];
  /** Why there are no devices; empty where there are. */
  why: string;
}

/** What the binary exports. */
export interface Addon {
  /** With a file, the block lies in it; with a device, in its memory, or in the host's where its kernels can reach it. */
  Storage: new (
    bytes: number,
    file?: NativeFile,
    device?: NativeDevice,
    isHost?: boolean,
  ) => NativeStorage;
  /** In a directory. */
  BackingFile: new (
    directory: string,
  ) => NativeFile;
  Program: new (
    words: Float64Array,
    params: Uint8Array,
    constants: Uint8Array,
    kernels: string[],
    threads: number,
    backend: string,
  ) => NativeProgram;
  ProcessGroup: new (options: NativeProcessGroupOptions) => NativeProcessGroup;
  /** Of the processor, each thread bound to a processor of its own with `pinThreads`; or of another backend, by index. */
  Device: {
    new (threads: number, pinThreads?: boolean): NativeDevice;
    new (backend: string, index: number): NativeDevice;
  };
  /** What a backend has, and why it has nothing. */
  backend(name: string): NativeBackend;
  kernels(): Record<string, KernelInfo>;
  workspaceBytes(kernel: string, params: Uint8Array, threads: number, backend: string): number;
  bufferList(kernel: string, params: Uint8Array): BufferInfo[];
  features(): { isa: string; onednn: string };
  /** Bytes beyond a multiple of 64 at which an array's memory begins. */
  misalignment(array: NodeJS.TypedArray): number;
  /** Bytes of all Storages of the process, in whole pages: now, and the most there ever were. */
  storageBytes(): { live: number; peak: number };
  /** Lets the calling thread run only where no other one would (Linux; elsewhere it does nothing). */
  giveWay(): void;
  shutdown(): void;
}

let loaded: { addon: Addon; file: string } | undefined;

/**
 * The native binary: `HADAL_NATIVE` (a path), else the one built here (`npm run build:native`), else the prebuilt one.
 *
 * @throws HadalError HADAL_ERR_NATIVE listing what was tried and what to do
 */
export function loadAddon(): Addon {
  loaded ??= load();
  return loaded.addon;
}

/** Whether {@link loadAddon} would return. */
export function canLoadAddon(): boolean {
  try {
    loadAddon();
    return true;
  } catch {
    return false;
  }
}

/** The file that {@link loadAddon} loaded. */
export function addonFile(): string {
  loaded ??= load();
  return loaded.file;
}

function load(): { addon: Addon; file: string } {
  const require = createRequire(import.meta.url);
  const root = fileURLToPath(new URL('../../', import.meta.url));
  let file = process.env.HADAL_NATIVE || undefined;
  try {
    file ??= (require('node-gyp-build') as { path(root: string): string }).path(root);
    const path = file;
    const addon = withBriefWaits(() => require(path) as Addon);
    // Without it, a step in progress crashes the process that exits under it.
    process.on('exit', () => addon.shutdown());
    return { addon, file };
  } catch (error) {
    throw new HadalError('HADAL_ERR_NATIVE', explainLoadFailure(root, file, error as Error), { cause: error });
  }
}

/**
 * Loads so that OpenMP's threads wait for the next kernel as they should; libgomp reads it when it is loaded, and programs
 * that this one starts are not to inherit it. Waking a sleeping thread takes 27 µs and some steps have a thousand kernels,
 * but threads that spin for good starve the data workers: they spin for as long as three wakes take, 80 µs (3000 pauses),
 * then sleep.
 */
function withBriefWaits<T>(load: () => T): T {
  const { OMP_WAIT_POLICY: policy, GOMP_SPINCOUNT: spins } = process.env;
  if (policy !== undefined) return load();
  process.env.OMP_WAIT_POLICY = 'passive';
  process.env.GOMP_SPINCOUNT = spins ?? '3000';
  try {
    return load();
  } finally {
    delete process.env.OMP_WAIT_POLICY;
    if (spins === undefined) delete process.env.GOMP_SPINCOUNT;
  }
}
