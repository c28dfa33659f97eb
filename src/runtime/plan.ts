// From a graph to a program: which node becomes which instruction, and where every value lies in memory.
// Views share their source's memory; in-place ops take over a buffer nobody needs any more; a slot's update is written
// straight into the slot where no later reader is harmed.
import { loadAddon } from '../addon/addon.js';
import type { DType } from '../core/dtype.js';
import { invariant } from '../core/errors.js';
import { type Shape, sameShape } from '../core/shape.js';
import { costOf, costOfCopy } from '../graph/cost.js';
import { compressionScope, type Graph, type Node, type Queue, type Value } from '../graph/graph.js';
import type { Cost, KernelCall } from '../graph/op.js';
import { readersIn, reads, rootOf } from '../graph/reads.js';
import { elementwiseCall } from '../ops/elementwise-expression.js';
import { Arena, type Block } from './arena.js';
import { type BufferRef, encode, joinAligned, type PlannedInstruction } from './encode.js';
import { packParams } from './kernel-params.js';
import { offload } from './offload.js';
import { type DeviceTarget, type Target, targetOf } from './target.js';
import { findWaits, type Waits } from './waits.js';
import { largestWorkspace, workspaceOf } from './workspace.js';

/** Type of a tensor bound to a program. */
export interface TensorSpec {
  name: string;
  shape: Shape;
  dtype: DType;
  /** Whether it lies in a file; a run then has it in memory while it is used. */
  offloaded?: boolean;
}

/** Which slots of a graph lie in a file. */
export type IsOffloaded = (slot: TensorSpec) => boolean;

/** What an instruction is, for profiles and messages. */
export interface InstructionInfo extends Cost {
  op: string;
  scope: string;
  kernel: string;
  queue: Queue;
}

/** A planned program: plain data, so that a worker can make it and hand it over. */
export interface Plan {
  words: Float64Array;
  params: Uint8Array;
  constants: Uint8Array;
  kernels: string[];
  arenaBytes: number;
  /** The largest workspace of one instruction, part of arenaBytes. */
  workspaceBytes: number;
  /** What the arena holds where it is fullest; activations: all that is neither of the others, and holes. */
  atPeak: Record<'activations' | 'gradients' | 'workspace', number>;
  /** The most bytes of offloaded slots that are in memory at once. */
  offloadWindowBytes: number;
  /** How much is recomputed, where that was to be found: a place in passes/recompute-candidates.ts. */
  candidate?: number;
  /** State slots, then outputs (which are slots of their own). */
  slots: TensorSpec[];
  inputs: TensorSpec[];
  outputs: TensorSpec[];
  instructions: InstructionInfo[];
  target: DeviceTarget;
}

/** Memory of a value and everything that shares it. */
interface Home {
  /** Where it lies; an arena block is assigned when the first writer runs. */
  place: { space: 'slot' | 'input'; index: number } | { space: 'constant'; offset: number } | { space: 'arena' };
  block: Block | null;
  bytes: number;
  /** Index of the last node that reads or writes it. */
  lastRead: number;
  /** Index of the last node while which it must stay. */
  lastUse: number;
}

/** A value that must be in a slot after the run. */
interface Result {
  value: Value;
  slot: number;
  /** The content that an update replaces. */
  old: Value | null;
}

/**
 * Plans a graph.
 *
 * @param target - the device it is for
 * @param isOffloaded - which slots lie in a file; default: none
 */
export function plan(graph: Graph, target: Target, isOffloaded: IsOffloaded = () => false): Plan {
  return new Planner(graph, targetOf(target), isOffloaded).run();
}

class Planner {
  readonly #graph: Graph;
  readonly #target: DeviceTarget;
  readonly #isOffloaded: IsOffloaded;
  readonly #homes = new Map<Value, Home>();
  readonly #slots: TensorSpec[] = [];
  readonly #inputs: TensorSpec[] = [];
  readonly #outputs: TensorSpec[] = [];
  readonly #constants: Uint8Array[] = [];
  #constantBytes = 0;
  readonly #constantOffsets = new Map<unknown, number>();
  readonly #instructions: PlannedInstruction[] = [];
  readonly #infos: InstructionInfo[] = [];
  readonly #arena = new Arena();
  readonly #workspaces = new Set<Block>();
  readonly #gradients = new Set<Block>();
  readonly #sharedWorkspaces = new Map<Queue, Block>();
  #workspaceBytes = 0;
  readonly #users: ReadonlyMap<Value, readonly Node[]>;
  /** Where results must be after the run: updates in their slots, outputs in slots of their own. */
  readonly #results: Result[] = [];
  /** A home whose block an in-place output has taken over within the node being emitted. */
  readonly #borrowed = new Map<Home, Home>();
  /** Which instruction on another queue writes a home, and all such instructions. */
  readonly #asyncWriters = new Map<Home, { index: number; queue: Queue }>();
  readonly #asyncInstructions: number[] = [];
  readonly #asyncPlaces = new Map<Node, number>();
  #waits: Waits = { waited: new Map(), before: new Map() };
  readonly #freeAfter = new Map<number, Set<Home>>();

  constructor(graph: Graph, target: DeviceTarget, isOffloaded: IsOffloaded) {
    this.#graph = graph;
    this.#users = readersIn(graph.nodes);
    this.#target = target;
    this.#isOffloaded = isOffloaded;
  }

  run(): Plan {
    this.#waits = findWaits(this.#graph, (value) => this.#readersThroughViews(value));
    this.#placeSources();
    this.#placeViewsAndResults();
    this.#findLifetimes();
    for (const node of this.#graph.nodes) this.#emit(node);
    this.#copyResults();
    this.#arena.layOut();
    const { instructions, infos, windowBytes } = offload(
      { instructions: this.#instructions, infos: this.#infos },
      this.#slots,
    );
    const encoded = encode(instructions);
    return {
      ...encoded,
      constants: joinAligned(this.#constants, 64),
      arenaBytes: this.#arena.peakBytes,
      workspaceBytes: this.#workspaceBytes,
      atPeak: this.#atPeak(),
      slots: this.#slots,
      inputs: this.#inputs,
      outputs: this.#outputs,
      instructions: infos,
      offloadWindowBytes: windowBytes,
      target: this.#target,
    };
  }

  #atPeak(): Plan['atPeak'] {
    const { atPeak, peakBytes } = this.#arena;
    const bytesOfThose = (blocks: ReadonlySet<Block>) =>
      atPeak.reduce((sum, block) => sum + (blocks.has(block) ? block.bytes : 0), 0);
    const [gradients, workspace] = [bytesOfThose(this.#gradients), bytesOfThose(this.#workspaces)];
    return { activations: peakBytes - gradients - workspace, gradients, workspace };
  }

  #waitedAt(node: Node): number {
    return this.#waits.waited.get(node) ?? this.#graph.nodes.length;
  }

  #placeSources(): void {
    for (const node of this.#graph.nodes) {
      const value = node.outputs[0];
      if (!node.op.isSource || !value) continue;
      const home = (place: Home['place']) =>
        this.#homes.set(value, { place, block: null, bytes: value.bytes, lastRead: -1, lastUse: -1 });
      const spec = { name: node.attrs.name as string, shape: value.shape, dtype: value.dtype };
      if (node.op.name === 'slot') {
        const slot = this.#isOffloaded(spec) ? { ...spec, offloaded: true } : spec;
        home({ space: 'slot', index: this.#slots.push(slot) - 1 });
      } else if (node.op.name === 'input') home({ space: 'input', index: this.#inputs.push(spec) - 1 });
      else home({ space: 'constant', offset: this.#constantOffset(node.attrs.data as Float32Array | Int32Array) });
    }
    const { slots, updates, outputs } = this.#graph;
    const slotIndex = (name: string) => this.#slots.findIndex((slot) => slot.name === name);
    for (const [name, value] of updates) {
      this.#results.push({ value, slot: slotIndex(name), old: slots.get(name) ?? null });
    }
    for (const [name, value] of outputs) {
      const spec = { name, shape: value.shape, dtype: value.dtype };
      this.#outputs.push(spec);
      // An output that is a slot as it stands lies there already.
      const slot = slots.get(name) === value ? slotIndex(name) : this.#slots.push(spec) - 1;
      this.#results.push({ value, slot, old: null });
    }
  }

  #constantOffset(data: Float32Array | Int32Array): number {
    const known = this.#constantOffsets.get(data);
    if (known !== undefined) return known;
    const offset = this.#constantBytes;
    this.#constants.push(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    this.#constantBytes += Math.ceil(data.byteLength / 64) * 64;
    this.#constantOffsets.set(data, offset);
    return offset;
  }

  /** Gives every remaining value a home: its source's for views, a slot's own for results, an arena block otherwise. */
  #placeViewsAndResults(): void {
    const claimed = new Map<Value, number>();
    for (const result of this.#results) this.#claim(claimed, result);
    for (const node of this.#graph.nodes) {
      for (const output of node.outputs) {
        if (this.#homes.has(output)) continue;
        const source = node.op.isView ? this.#homes.get(node.inputs[0] as Value) : undefined;
        const slot = claimed.get(output);
        const place = slot === undefined ? ({ space: 'arena' } as const) : ({ space: 'slot', index: slot } as const);
        this.#homes.set(output, source ?? { place, block: null, bytes: output.bytes, lastRead: -1, lastUse: -1 });
      }
    }
  }

  /** Lets the node that computes a result write it to its slot, if no reader of the slot's old content is harmed. */
  #claim(claimed: Map<Value, number>, { value, slot, old }: Result): void {
    const root = rootOf(value);
    if (root.node.op.isSource || claimed.has(root) || root.node.predicate !== value.node.predicate) return;
    if (old) {
      const isDone = (reader: Node) =>
        reader.queue === 'compute' || reader.queue === root.node.queue || this.#waitedAt(reader) <= root.node.id;
      const isHarmless = (reader: Node) =>
        reader === root.node ? this.#mayWriteOver(root, old) : reader.id < root.node.id && isDone(reader);
      if (!this.#readersThroughViews(old).every(isHarmless)) return;
      if (this.#results.some((other) => rootOf(other.value) === old)) return;
    }
    claimed.set(root, slot);
    if (root.node.queue === 'compute') return;
    // What a collective reduces in place is computed where the result is to be.
    for (const [output, input] of root.node.op.inPlace ?? []) {
      const source = root.node.inputs[input];
      if (output !== root.index || !source || !this.#isFor(root.node, rootOf(source))) continue;
      this.#claim(claimed, { value: source, slot, old });
    }
  }

  /** Whether a value is made for one node alone, whenever that runs. */
  #isFor(node: Node, root: Value): boolean {
    const isResult = this.#results.some(({ value }) => rootOf(value) === root);
    return !isResult && root.node.predicate === node.predicate && this.#readersThroughViews(root).length === 1;
  }

  #readersThroughViews(value: Value): Node[] {
    return (this.#users.get(value) ?? []).flatMap((node) =>
      node.op.isView ? node.outputs.flatMap((output) => this.#readersThroughViews(output)) : [node],
    );
  }

  /** Whether the node may write `output` over the memory of `source`, which it reads. */
  #mayWriteOver(output: Value, source: Value): boolean {
    const { node } = output;
    return node.inputs.every((input, i) => {
      if (!input || rootOf(input) !== source) return true;
      if (input.dtype !== output.dtype) return false;
      return node.op.isElementwise
        ? sameShape(input.shape, output.shape)
        : (node.op.inPlace?.some(([o, n]) => o === output.index && n === i) ?? false);
    });
  }

  #findLifetimes(): void {
    const end = this.#graph.nodes.length;
    for (const node of this.#graph.nodes) {
      for (const value of [...reads(node), ...node.outputs]) {
        const home = this.#home(value);
        [home.lastRead, home.lastUse] = [node.id, node.id];
      }
    }
    // What an instruction on another queue reads and writes must stay until somebody has waited for its result.
    for (const node of this.#graph.nodes) {
      if (node.queue === 'compute') continue;
      const until = this.#waitedAt(node);
      for (const value of [...reads(node), ...node.outputs]) {
        const home = this.#home(value);
        home.lastUse = Math.max(home.lastUse, until);
      }
    }
    for (const { value } of this.#results) {
      const { predicate } = value.node;
      for (const kept of predicate ? [value, predicate] : [value]) {
        const home = this.#home(kept);
        [home.lastRead, home.lastUse] = [end, end];
      }
    }
    for (const home of new Set(this.#homes.values())) {
      const list = this.#freeAfter.get(home.lastUse);
      if (list) list.add(home);
      else this.#freeAfter.set(home.lastUse, new Set([home]));
    }
  }

  #home(value: Value): Home {
    const home = this.#homes.get(value);
    invariant(home, 'a value has no memory');
    return home;
  }

  #emit(node: Node): void {
    if (!node.op.isSource && !node.op.isView) {
      invariant(node.op.kernel, `op '${node.op.name}' has no kernel; lower it first`);
      const call = node.op.kernel(node.inputs, node.outputs, node.attrs);
      this.#takeOverBuffers(node, call);
      this.#instruct(node, call);
      this.#noteGradients(node);
    }
    for (const home of this.#freeAfter.get(node.id) ?? []) {
      if (home.block) this.#arena.free(home.block);
      home.block = null;
    }
  }

  /** Gradients are what an update of a slot of their shape reads. */
  #noteGradients(node: Node): void {
    const updated = node.outputs.filter((output) => this.#home(output).place.space === 'slot');
    for (const input of updated.length > 0 ? node.inputs : []) {
      if (!input || !updated.some(({ shape }) => sameShape(shape, input.shape))) continue;
      const { block } = this.#home(input);
      if (block) this.#gradients.add(block);
    }
  }

  /** In-place outputs inherit their input's block when it ends here; what a kernel updates gets a copy otherwise. */
  #takeOverBuffers(node: Node, call: KernelCall): void {
    const list = node.op.inPlace ? loadAddon().bufferList(call.kernel, packParams(call.kernel, call.params)) : [];
    for (const output of node.outputs) {
      const home = this.#home(output);
      const named = (node.op.inPlace ?? []).filter(([o]) => o === output.index).map(([, n]) => node.inputs[n] ?? null);
      const isUpdated = list[call.buffers.indexOf(output)]?.access === 'inout';
      for (const source of node.op.isElementwise && !isUpdated ? node.inputs : named) {
        if (!source || home.place.space !== 'arena' || home.block || !this.#endsIn(node, source, output)) continue;
        const from = this.#home(source);
        home.block = from.block;
        from.block = null;
        this.#borrowed.set(from, home);
      }
      const source = isUpdated ? named[0] : null;
      if (source && !this.#sameMemory(source, output)) {
        this.#copy(source, this.#home(source), home, node.predicate, this.#waitsFor([source, output], 'compute'));
      }
    }
  }

  /** Whether `source` ends in the node, and `output` may take over its memory. */
  #endsIn(node: Node, source: Value, output: Value): boolean {
    const { place, block, lastRead, lastUse, bytes } = this.#home(source);
    const { queue } = node;
    // What runs on a queue beside compute runs after what compute, and it itself, did before.
    const mayFollow = (reader: Node) => reader.queue === 'compute' || reader.queue === queue;
    const isLast =
      queue === 'compute'
        ? lastUse === node.id
        : lastRead === node.id && this.#readersThroughViews(rootOf(source)).every(mayFollow);
    const ends = place.space === 'arena' && block !== null && isLast;
    return ends && bytes === output.bytes && this.#mayWriteOver(output, rootOf(source));
  }

  #sameMemory(a: Value, b: Value): boolean {
    const [from, to] = [this.#home(a), this.#home(b)];
    if (from === to || this.#borrowed.get(from) === to) return true;
    return from.place.space === 'slot' && to.place.space === 'slot' && from.place.index === to.place.index;
  }

  /** Results that no node could write to their slot. Contents of slots that are about to be written are saved first. */
  #copyResults(): void {
    const end = this.#graph.nodes.length;
    const pending = this.#results.filter(({ value, slot }) => {
      const { place } = this.#home(value);
      return !(place.space === 'slot' && place.index === slot);
    });
    const written = new Set(pending.map(({ slot }) => slot));
    const sources = new Map(pending.map(({ value }) => [value, this.#home(value)]));
    for (const [value, home] of sources) {
      if (home.place.space !== 'slot' || !written.has(home.place.index)) continue;
      const saved: Home = { place: { space: 'arena' }, block: null, bytes: home.bytes, lastRead: end, lastUse: end };
      this.#copy(value, home, saved, null, this.#asyncInstructions);
      sources.set(value, saved);
    }
    for (const { value, slot } of pending) {
      const target: Home = {
        place: { space: 'slot', index: slot },
        block: null,
        bytes: value.bytes,
        lastRead: end,
        lastUse: end,
      };
      // An update that was skipped leaves its slot as it was.
      const { predicate } = value.node;
      this.#copy(value, sources.get(value) as Home, target, predicate, this.#asyncInstructions);
    }
  }

  #copy(like: Value, from: Home, to: Home, predicate: Value | null, waits: readonly number[]): void {
    const call = elementwiseCall(like, [like], [{ input: 0 }]);
    const buffers = call.buffers.map((_, i) =>
      i === 0 ? this.#ref(from) : i === call.buffers.length - 1 ? this.#ref(to) : null,
    );
    const info = { op: 'copy', scope: like.node.scope, kernel: call.kernel, ...costOfCopy(like) };
    this.#push(call, buffers, { queue: 'compute', predicate, waits }, info);
  }

  #instruct(node: Node, call: KernelCall): void {
    const { op, outputs, queue, predicate, scope } = node;
    const unused = this.#unusedOutputs(node, call);
    const buffers = call.buffers.map((value) => (value && !unused.has(value) ? this.#ref(this.#home(value)) : null));
    const waits = this.#waitsFor([...reads(node), ...outputs], queue);
    const before = this.#waits.before.get(node);
    if (before) waits.push(this.#asyncPlaces.get(before) as number);
    this.#push(
      call,
      buffers,
      { queue, predicate, waits },
      { op: op.name, scope, kernel: call.kernel, ...costOf(node) },
    );
    if (queue === 'compute') return;
    const index = this.#instructions.length - 1;
    this.#asyncInstructions.push(index);
    this.#asyncPlaces.set(node, index);
    for (const output of outputs) this.#asyncWriters.set(this.#home(output), { index, queue });
  }

  /** Instructions on other queues that write what is about to be used on this one. */
  #waitsFor(values: readonly Value[], queue: Queue): number[] {
    const writers = values.map((value) => this.#asyncWriters.get(this.#home(value)));
    return [...new Set(writers.flatMap((writer) => (writer && writer.queue !== queue ? [writer.index] : [])))];
  }

  /** Outputs that nobody reads and the kernel can do without. */
  #unusedOutputs(node: Node, call: KernelCall): ReadonlySet<Value> {
    const idle = node.outputs.filter(
      (output) =>
        !this.#users.has(output) &&
        this.#home(output).place.space === 'arena' &&
        this.#home(output).lastUse === node.id,
    );
    if (idle.length === 0) return new Set();
    const list = loadAddon().bufferList(call.kernel, packParams(call.kernel, call.params));
    return new Set(idle.filter((output) => list[call.buffers.indexOf(output)]?.isOptional));
  }

  #ref(home: Home): BufferRef {
    const { place, bytes } = home;
    if (place.space === 'constant') return { space: 'constant', index: 0, offset: place.offset, bytes };
    if (place.space !== 'arena') return { space: place.space, index: place.index, offset: 0, bytes };
    const holder = this.#borrowed.get(home) ?? home;
    holder.block ??= this.#arena.allocate(bytes);
    return arenaRef(holder.block, bytes);
  }

  /** Instructions of a queue beside compute run one after the other at times unknown: they share a block, which stays. */
  #workspaceOn(queue: Queue, bytes: number): Block {
    if (queue === 'compute') return this.#arena.allocate(bytes);
    const shared =
      this.#sharedWorkspaces.get(queue) ?? this.#arena.allocate(largestWorkspace(this.#graph, queue, this.#target));
    this.#sharedWorkspaces.set(queue, shared);
    return shared;
  }

  #push(
    call: KernelCall,
    buffers: (BufferRef | null)[],
    { queue, predicate, waits }: { queue: Queue; predicate: Value | null; waits: readonly number[] },
    info: Omit<InstructionInfo, 'queue'>,
  ): void {
    const params = packParams(call.kernel, call.params);
    const workspaceBytes = workspaceOf(call.kernel, params, queue, this.#target);
    const workspace = workspaceBytes > 0 ? this.#workspaceOn(queue, workspaceBytes) : null;
    this.#instructions.push({
      kernel: call.kernel,
      params,
      queue,
      isTimed: queue === 'compute' && info.scope === compressionScope,
      workspace: workspace ? arenaRef(workspace, workspaceBytes) : { offset: 0, bytes: 0 },
      predicate: predicate && this.#ref(this.#home(predicate)),
      buffers,
      waits: [...waits],
    });
    if (workspace) this.#workspaces.add(workspace);
    if (workspace && queue === 'compute') this.#arena.free(workspace);
    this.#workspaceBytes = Math.max(this.#workspaceBytes, workspaceBytes);
    this.#infos.push({ ...info, queue });
  }
}

/** A place in the arena, read when the arena is laid out. */
const arenaRef = (block: Block, bytes: number): BufferRef => ({
  space: 'arena',
  index: 0,
  get offset() {
    return block.offset;
  },
  bytes,
});
