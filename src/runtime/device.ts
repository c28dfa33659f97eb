import {
  loadAddon,
  type NativeDevice,
  type NativeProcessGroup,
  type NativeProgram,
  type NativeStorage,
} from '../addon/addon.js';
import { bytesOf, type DType } from '../core/dtype.js';
import { HadalError } from '../core/errors.js';
import { type MeshAxis, meshAxes } from '../core/mesh.js';
import { usableProcessors } from '../core/processors.js';
import { type Shape, sizeOf } from '../core/shape.js';
import type { BackingFile } from './backing-file.js';
import type { InstructionInfo, Plan, TensorSpec } from './plan.js';
import type { BackendName, DeviceTarget } from './target.js';
import { Tensor } from './tensor.js';

/** A planned program, ready to run on its device. */
export class Program {
  constructor(
    readonly native: NativeProgram,
    readonly slots: readonly TensorSpec[],
    readonly inputs: readonly TensorSpec[],
    readonly outputs: readonly TensorSpec[],
    readonly instructions: readonly InstructionInfo[],
    readonly arenaBytes: number,
  ) {}
}

/** A program and what it works on this time. Outputs are bound like slots. */
export interface ScheduleEntry {
  program: Program;
  /** What profiles call it; default: `program`. */
  name?: string;
  slots: Readonly<Record<string, Tensor>>;
  inputs?: Readonly<Record<string, NodeJS.TypedArray>>;
}

/** Time of one instruction of a profiled step. */
export interface InstructionTime extends InstructionInfo {
  ms: number;
  /** Name of the schedule's entry. */
  program: string;
}

/** Where the time of a run went. */
export interface RunTimes {
  /** That collectives took, and of that what the computation waited for. */
  communicationMs: number;
  exposedMs: number;
  /** That compression took of the computation. */
  compressionMs: number;
  instructions: InstructionTime[];
}

/** Options of {@link openDevice}. */
export interface DeviceOptions {
  /** Executor threads; default: the processors that this process may use. */
  threads?: number;
  /** Binds each thread to a processor of its own; Linux only. */
  pinThreads?: boolean;
}

/** The form of a device's name: a GPU may have a number. */
export const devicePattern = /^(?:auto|cpu|cuda(?:-sim)?(?::\d{1,3})?)$/;

/**
 * Opens a device.
 *
 * @param name - 'cpu'; 'cuda' or 'cuda:1', a GPU; 'cuda-sim', the GPU's kernels executed by the processor; 'auto': a GPU if
 *   there is one, else the processor
 * @throws HadalError HADAL_ERR_DEVICE when there is no such device, HADAL_ERR_CONFIG for a number of threads that it
 *   cannot have or cannot pin
 */
export function openDevice(name: string, options: DeviceOptions = {}): Device {
  const { backend, index } = backendOf(name);
  return new Device(backend, index, options);
}

/** A device's backend, and which of its devices it is. @throws HadalError HADAL_ERR_DEVICE for what is no name @internal */
export function backendOf(name: string): { backend: BackendName; index: number } {
  if (!devicePattern.test(name)) {
    throw new HadalError(
      'HADAL_ERR_DEVICE',
      `[device] expected auto, cpu, cuda, cuda:<number> or cuda-sim, got '${name}'`,
    );
  }
  const [kind = '', index = '0'] = name.split(':');
  const backend = kind === 'auto' ? bestBackend() : (kind as BackendName);
  return { backend, index: Number(index) };
}

/** A GPU's where there is one. */
function bestBackend(): BackendName {
  return loadAddon().backend('cuda').devices.length > 0 ? 'cuda' : 'cpu';
}

function openNative(backend: BackendName, index: number, { threads, pinThreads }: DeviceOptions): NativeDevice {
  const { Device: Native, backend: describe } = loadAddon();
  if (backend !== 'cpu') {
    const { devices, why } = describe(backend);
    if (index >= devices.length) {
      const there = why || `there are ${devices.length}`;
      throw new HadalError(
        'HADAL_ERR_DEVICE',
        `[device] expected a device '${backend}:${index}', got none: ${there}; see hadal doctor, or take device cpu`,
      );
    }
    try {
      return new Native(backend, index);
    } catch (error) {
      throw new HadalError('HADAL_ERR_DEVICE', (error as Error).message, { cause: error });
    }
  }
  const count = threads ?? usableProcessors();
  if (!Number.isInteger(count) || count < 1 || count > 1024) {
    throw new HadalError('HADAL_ERR_CONFIG', `[device] expected 1 to 1024 threads, got ${count}`);
  }
  try {
    return new Native(count, pinThreads ?? false);
  } catch (error) {
    throw new HadalError('HADAL_ERR_CONFIG', (error as Error).message, { cause: error });
  }
}

function instructionSetOf(backend: BackendName, index: number): string {
  const { backend: describe, features } = loadAddon();
  const { major, minor } = describe(backend).devices[index] ?? {};
  return backend === 'cpu' ? features().isa : `sm_${major}${minor}`;
}

/** An executor with its memory. Steps run one after the other, off the main thread, in the order they were given. */
export class Device implements Disposable {
  /** 'cpu', 'cuda:0', 'cuda-sim'. */
  readonly name: string;
  /** Among its backend's devices. @internal */
  readonly index: number;
  /** Threads of a processor, multiprocessors of a GPU. */
  readonly threads: number;
  /** The processor's instruction set, or the GPU's compute capability. */
  readonly instructionSet: string;
  #target: DeviceTarget;
  /** @internal */
  readonly native: NativeDevice;
  #arena: NativeStorage | null = null;
  #isDisposed = false;

  /** @internal */
  constructor(backend: BackendName, index: number, options: DeviceOptions) {
    this.native = openNative(backend, index, options);
    this.name = backend === 'cuda' ? `cuda:${index}` : backend;
    this.index = index;
    this.threads = this.native.threads;
    this.instructionSet = instructionSetOf(backend, index);
    this.#target = { backend, threads: this.threads, without: [] };
  }

  /** What programs for it are planned for. @internal */
  get target(): DeviceTarget {
    return this.#target;
  }

  /** From now on, programs are planned without these kernels where their ops can be spelled out. @internal */
  distrust(kernels: readonly string[]): void {
    this.#target = { ...this.#target, without: kernels };
  }

  /**
   * A zero-filled tensor.
   *
   * @param options - `file`: in which it lies; default: in memory
   * @throws HadalError HADAL_ERR_MEMORY, or HADAL_ERR_IO where the file has no room
   */
  allocate(shape: Shape, dtype: DType, { file = null }: { file?: BackingFile | null } = {}): Tensor {
    const bytes = bytesOf(dtype, sizeOf(shape));
    const isFile = file !== null && this.target.backend === 'cpu';
    // What the processor keeps in a file, a GPU keeps in the host's memory.
    const storage = isFile ? file.storage(bytes) : this.#storage(bytes, 'a tensor', file !== null);
    return new Tensor(this, storage, shape, dtype);
  }

  /** Makes a plan runnable. @throws HadalError HADAL_ERR_DEVICE when it is for another device @internal */
  load(plan: Plan): Program {
    const { words, params, constants, kernels, slots, inputs, outputs, instructions, arenaBytes, target } = plan;
    const { backend, threads } = target;
    if (threads !== this.threads || backend !== this.target.backend) {
      throw new HadalError(
        'HADAL_ERR_DEVICE',
        `[device] expected a plan for ${this.threads} threads of ${this.target.backend}, got one for ${threads} of ${backend}; plan it with the device's target`,
      );
    }
    const native = new (loadAddon().Program)(words, params, constants, kernels, threads, backend);
    return new Program(native, slots, inputs, outputs, instructions, arenaBytes);
  }

  /**
   * Runs a schedule as one asynchronous native call; all its programs share one arena.
   *
   * @returns times per instruction only when profiling
   * @throws HadalError HADAL_ERR_RUN naming op and layer when a kernel refuses its data; HADAL_ERR_DISPOSED when the
   *   device ends before the step does
   * @internal
   */
  async run(schedule: readonly ScheduleEntry[], { profile = false } = {}): Promise<RunTimes> {
    if (this.#isDisposed) throw this.refusal(new Error('[device] expected an open device, got a disposed one'));
    const arena = this.#arenaFor(Math.max(0, ...schedule.map(({ program }) => program.arenaBytes)));
    const entries = schedule.map(({ program, slots, inputs }) => ({
      program: program.native,
      slots: program.slots.map((spec) => this.#bound(slots, spec).storage),
      inputs: program.inputs.map((spec) => boundInput(inputs ?? {}, spec)),
    }));
    try {
      const [communicationMs = 0, exposedMs = 0, compressionMs = 0, ...times] = await this.native.run(
        entries,
        arena,
        profile,
      );
      const told = { communicationMs, exposedMs, compressionMs };
      if (!profile) return { ...told, instructions: [] };
      const infos = schedule.flatMap(({ program, name = 'program' }) =>
        program.instructions.map((info) => ({ ...info, program: name })),
      );
      return { ...told, instructions: infos.map((info, i) => ({ ...info, ms: times[i] ?? 0 })) };
    } catch (error) {
      const { entry, instruction } = error as { entry?: number; instruction?: number };
      const info = schedule[entry ?? -1]?.program.instructions[instruction ?? -1];
      const place = info ? ` (op '${info.op}'${info.scope ? ` in ${info.scope}` : ''})` : '';
      throw this.refusal(error, place);
    }
  }

  /** What the native side refused, as an error of ours. @internal */
  refusal(error: unknown, place = ''): HadalError {
    const { message } = error as Error;
    const code = this.#isDisposed
      ? 'HADAL_ERR_DISPOSED'
      : message.startsWith('[comm]')
        ? 'HADAL_ERR_COMM'
        : 'HADAL_ERR_RUN';
    return new HadalError(code, `${message}${place}`, { cause: error });
  }

  /** Gives an axis of the mesh its process group; null takes it away. Waits for the steps given before. @internal */
  setGroup(axis: MeshAxis, group: NativeProcessGroup | null): void {
    this.native.setGroup(meshAxes.indexOf(axis), group);
  }

  /** Makes the arena that runs share so large, once for all instead of whenever a larger one is called for. @internal */
  reserveArena(bytes: number): void {
    this.#arenaFor(bytes);
  }

  /** Bytes of the arena that runs share. @internal */
  get arenaBytes(): number {
    return this.#arena?.bytes ?? 0;
  }

  #bound(slots: Readonly<Record<string, Tensor>>, spec: TensorSpec): Tensor {
    const tensor = slots[spec.name];
    if (!tensor || tensor.dtype !== spec.dtype || tensor.size !== sizeOf(spec.shape)) {
      const got = tensor ? `${tensor.dtype} [${tensor.shape.join(', ')}]` : 'none';
      throw new HadalError(
        'HADAL_ERR_SHAPE',
        `[run] slot '${spec.name}' expected ${spec.dtype} [${spec.shape.join(', ')}], got ${got}`,
      );
    }
    if (tensor.device !== this) {
      throw new HadalError(
        'HADAL_ERR_DEVICE',
        `[run] slot '${spec.name}' expected a tensor of this device, got another's`,
      );
    }
    return tensor;
  }

  #arenaFor(bytes: number): NativeStorage {
    if (this.#arena && this.#arena.bytes >= bytes) return this.#arena;
    this.#arena?.dispose();
    this.#arena = this.#storage(bytes, 'the arena of a step');
    return this.#arena;
  }

  #storage(bytes: number, what: string, isHost = false): NativeStorage {
    const { Storage } = loadAddon();
    const isOwn = this.target.backend !== 'cpu';
    try {
      return isOwn ? new Storage(bytes, undefined, this.native, isHost) : new Storage(bytes);
    } catch (error) {
      const whose = isOwn ? `${this.name} refused (${(error as Error).message})` : 'the system refused';
      throw new HadalError(
        'HADAL_ERR_MEMORY',
        `[device] expected ${(bytes / 2 ** 20).toFixed(1)} MiB for ${what}, ${whose}; take a smaller model or batch`,
        { cause: error },
      );
    }
  }

  /** Ends the step in progress; what was queued rejects with HADAL_ERR_DISPOSED. */
  dispose(): void {
    this.#isDisposed = true;
    this.native.shutdown();
    this.#arena?.dispose();
    this.#arena = null;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

function boundInput(inputs: Readonly<Record<string, NodeJS.TypedArray>>, spec: TensorSpec): NodeJS.TypedArray {
  const array = inputs[spec.name];
  const bytes = bytesOf(spec.dtype, sizeOf(spec.shape));
  const fits =
    spec.dtype === 'fp32'
      ? array instanceof Float32Array
      : spec.dtype === 'int32'
        ? array instanceof Int32Array
        : array;
  if (!array || !fits || array.byteLength !== bytes) {
    const got = array ? `${array.constructor.name} of ${array.byteLength} bytes` : 'none';
    throw new HadalError(
      'HADAL_ERR_SHAPE',
      `[run] input '${spec.name}' expected ${spec.dtype} [${spec.shape.join(', ')}] (${bytes} bytes), got ${got}`,
    );
  }
  return array;
}
