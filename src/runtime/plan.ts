// From a graph to a program: which node becomes which instruction, and where every value lies in memory.
// Views share their source's memory; in-place ops take over a buffer nobody needs any more; a slot's update is written
// straight into the slot where no later reader is harmed.
import { loadAddon } from '../addon/addon.js';
import { bytesOf, type DType } from '../core/dtype.js';
import { invariant } from '../core/errors.js';
import { type Shape, sameShape } from '../core/shape.js';
import type { Graph, Node, Queue, Value } from '../graph/graph.js';
import type { Cost, KernelCall } from '../graph/op.js';
import { elementwiseCall } from '../ops/elementwise-expression.js';
import { Arena, type Block } from './arena.js';
import { type BufferRef, encode, type PlannedInstruction } from './encode.js';
import { packParams } from './kernel-params.js';

/** Type of a tensor bound to a program. */
export interface TensorSpec {
  name: string;
  shape: Shape;
  dtype: DType;
}

/** What an instruction is, for profiles and messages. */
export interface InstructionInfo extends Cost {
  op: string;
  scope: string;
  kernel: string;
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
  /** State slots, then outputs (which are slots of their own). */
  slots: TensorSpec[];
  inputs: TensorSpec[];
  outputs: TensorSpec[];
  instructions: InstructionInfo[];
  threads: number;
}

/** Memory of a value and everything that shares it. */
interface Home {
  /** Where it lies; an arena block is assigned when the first writer runs. */
  place: { space: 'slot' | 'input'; index: number } | { space: 'constant'; offset: number } | { space: 'arena' };
  block: Block | null;
  bytes: number;
  /** Index of the last node that reads or writes it. */
  lastUse: number;
}

/**
 * Plans a graph.
 *
 * @param threads - executor threads; workspaces depend on it
 */
export function plan(graph: Graph, threads: number): Plan {
  return new Planner(graph, threads).run();
}

class Planner {
  readonly #graph: Graph;
  readonly #threads: number;
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
  #workspaceBytes = 0;
  readonly #users = new Map<Value, Node[]>();
  /** Which instruction on another queue wrote a home, until somebody has waited for it. */
  readonly #asyncWriters = new Map<Home, number>();
  readonly #freeAfter = new Map<number, Set<Home>>();

  constructor(graph: Graph, threads: number) {
    this.#graph = graph;
    this.#threads = threads;
    this.#resultRoots = new Set([...graph.updates.values()].map(rootOf));
  }

  run(): Plan {
    this.#findUsers();
    this.#placeSources();
    this.#placeViewsAndResults();
    this.#findLifetimes();
    for (const node of this.#graph.nodes) this.#emit(node);
    this.#copyResults();
    const encoded = encode(this.#instructions);
    return {
      ...encoded,
      constants: joinBytes(this.#constants, this.#constantBytes),
      arenaBytes: this.#arena.peakBytes,
      workspaceBytes: this.#workspaceBytes,
      slots: [...this.#slots, ...this.#outputs],
      inputs: this.#inputs,
      outputs: this.#outputs,
      instructions: this.#infos,
      threads: this.#threads,
    };
  }

  #findUsers(): void {
    for (const node of this.#graph.nodes) {
      for (const input of new Set(reads(node))) {
        const users = this.#users.get(input);
        if (users) users.push(node);
        else this.#users.set(input, [node]);
      }
    }
  }

  #placeSources(): void {
    for (const node of this.#graph.nodes) {
      const value = node.outputs[0];
      if (!node.op.isSource || !value) continue;
      const home = (place: Home['place']) =>
        this.#homes.set(value, { place, block: null, bytes: value.bytes, lastUse: -1 });
      const spec = { name: node.attrs.name as string, shape: value.shape, dtype: value.dtype };
      if (node.op.name === 'slot') home({ space: 'slot', index: this.#slots.push(spec) - 1 });
      else if (node.op.name === 'input') home({ space: 'input', index: this.#inputs.push(spec) - 1 });
      else home({ space: 'constant', offset: this.#constantOffset(node.attrs.data as Float32Array | Int32Array) });
    }
    for (const [name, value] of this.#graph.outputs)
      this.#outputs.push({ name, shape: value.shape, dtype: value.dtype });
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
    const results = new Map<Value, number>();
    for (const [name, value] of this.#graph.updates)
      this.#claim(
        results,
        value,
        this.#slots.findIndex((s) => s.name === name),
      );
    for (const [i, [, value]] of [...this.#graph.outputs].entries())
      this.#claim(results, value, this.#slots.length + i);
    for (const node of this.#graph.nodes) {
      for (const output of node.outputs) {
        if (this.#homes.has(output)) continue;
        const source = node.op.isView ? this.#homes.get(node.inputs[0] as Value) : undefined;
        const slot = results.get(output);
        const place = slot === undefined ? ({ space: 'arena' } as const) : ({ space: 'slot', index: slot } as const);
        this.#homes.set(output, source ?? { place, block: null, bytes: output.bytes, lastUse: -1 });
      }
    }
  }

  /** Lets the node that computes a result write it to its slot, if no reader of the slot's old content comes later. */
  #claim(results: Map<Value, number>, result: Value, slot: number): void {
    let value = result;
    while (value.node.op.isView) value = value.node.inputs[0] as Value;
    if (value.node.op.isSource || results.has(value)) return;
    const name = this.#slots[slot]?.name;
    const old = name === undefined ? undefined : this.#graph.slots.get(name);
    if (old) {
      const readers = this.#readersThroughViews(old);
      const mayAlias = (node: Node) =>
        node.id < value.node.id || (node === value.node && this.#mayWriteOver(value, old));
      if (!readers.every(mayAlias)) return;
      if ([...this.#graph.updates.values(), ...this.#graph.outputs.values()].some((other) => rootOf(other) === old))
        return;
    }
    results.set(value, slot);
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
      return node.op.isElementwise
        ? sameShape(input.shape, output.shape) && input.dtype === output.dtype
        : (node.op.inPlace?.some(([o, n]) => o === output.index && n === i) ?? false);
    });
  }

  #findLifetimes(): void {
    for (const node of this.#graph.nodes) {
      for (const value of [...reads(node), ...node.outputs]) this.#home(value).lastUse = node.id;
    }
    // What an instruction on another queue reads and writes must stay until somebody has waited for its result.
    for (const node of this.#graph.nodes) {
      if (node.queue === 'compute') continue;
      const waits = node.outputs.flatMap((output) => this.#readersThroughViews(output).map((user) => user.id));
      const until = waits.length > 0 ? Math.min(...waits) : this.#graph.nodes.length;
      for (const value of [...reads(node), ...node.outputs]) {
        const home = this.#home(value);
        home.lastUse = Math.max(home.lastUse, until);
      }
    }
    for (const value of [...this.#graph.updates.values(), ...this.#graph.outputs.values()]) {
      this.#home(value).lastUse = this.#graph.nodes.length;
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
      this.#instruct(node, call, node.op.cost?.(node.inputs, node.outputs, node.attrs) ?? defaultCost(node));
    }
    for (const home of this.#freeAfter.get(node.id) ?? []) {
      if (home.block) this.#arena.free(home.block);
      home.block = null;
    }
  }

  /** In-place outputs inherit their input's block when it ends here; a predicated one gets a copy of it otherwise. */
  #takeOverBuffers(node: Node, call: KernelCall): void {
    const list = node.op.inPlace ? loadAddon().bufferList(call.kernel, packParams(call.kernel, call.params)) : [];
    for (const output of node.outputs) {
      const home = this.#home(output);
      for (const source of this.#inPlaceSources(node, output)) {
        const from = this.#home(source);
        const dies = from.place.space === 'arena' && from.lastUse === node.id && from.bytes === home.bytes;
        if (home.place.space === 'arena' && !home.block && dies && from.block && node.queue === 'compute') {
          home.block = from.block;
          from.block = null;
          this.#borrowed.set(from, home);
          break;
        }
      }
      // In place is more than a saving where a result may be skipped, or the kernel reads what it overwrites.
      const mayBeSkipped = node.predicate !== null && this.#resultRoots.has(output);
      const isRead = list[call.buffers.indexOf(output)]?.access === 'inout' || mayBeSkipped;
      const source = isRead ? this.#inPlaceSource(node, output) : null;
      if (source && !this.#sameMemory(source, output)) this.#copy(source, output, node);
    }
  }

  readonly #resultRoots: ReadonlySet<Value>;

  /** A home whose block an in-place output has taken over within the node being emitted. */
  readonly #borrowed = new Map<Home, Home>();

  #inPlaceSources(node: Node, output: Value): Value[] {
    const named = (node.op.inPlace ?? []).filter(([o]) => o === output.index).map(([, n]) => node.inputs[n] ?? null);
    const candidates = node.op.isElementwise ? [...named, ...node.inputs] : named;
    return candidates.filter(
      (input): input is Value => input !== null && input.dtype === output.dtype && sameShape(input.shape, output.shape),
    );
  }

  #inPlaceSource(node: Node, output: Value): Value | null {
    const pair = node.op.inPlace?.find(([o]) => o === output.index);
    return pair ? (node.inputs[pair[1]] ?? null) : null;
  }

  #sameMemory(a: Value, b: Value): boolean {
    const [from, to] = [this.#home(a), this.#home(b)];
    if (from === to || this.#borrowed.get(from) === to) return true;
    return from.place.space === 'slot' && to.place.space === 'slot' && from.place.index === to.place.index;
  }

  #copy(source: Value, target: Value, node: Node | null): void {
    const call = elementwiseCall(target, [source], [{ input: 0 }]);
    this.#instruct(
      node,
      { ...call, buffers: call.buffers.map((b, i) => (i === call.buffers.length - 2 ? null : b)) },
      {
        flops: 0,
        bytesRead: source.bytes,
        bytesWritten: target.bytes,
      },
      'copy',
    );
  }

  /** Results that no node could write to their slot. Contents that are read from other slots are copied first. */
  #copyResults(): void {
    const ends = [
      ...[...this.#graph.updates].map(([name, value]) => ({
        value,
        slot: this.#slots.findIndex((s) => s.name === name),
      })),
      ...[...this.#graph.outputs].map(([, value], i) => ({ value, slot: this.#slots.length + i })),
    ];
    const pending = ends.filter(({ value, slot }) => {
      const { place } = this.#home(value);
      return !(place.space === 'slot' && place.index === slot);
    });
    const written = new Set(pending.map(({ slot }) => slot));
    for (const { value } of pending) {
      const home = this.#home(value);
      if (home.place.space !== 'slot' || !written.has(home.place.index)) continue;
      const saved: Home = {
        place: { space: 'arena' },
        block: null,
        bytes: home.bytes,
        lastUse: this.#graph.nodes.length,
      };
      this.#copyHomes(value, home, saved);
      this.#homes.set(value, saved);
    }
    for (const { value, slot } of pending) {
      this.#copyHomes(value, this.#home(value), {
        place: { space: 'slot', index: slot },
        block: null,
        bytes: value.bytes,
        lastUse: 0,
      });
    }
  }

  #copyHomes(like: Value, from: Home, to: Home): void {
    const call = elementwiseCall(like, [like], [{ input: 0 }]);
    const buffers = call.buffers.map((_, i) =>
      i === 0 ? this.#ref(from) : i === call.buffers.length - 1 ? this.#ref(to) : null,
    );
    this.#push(null, call, buffers, [], { flops: 0, bytesRead: like.bytes, bytesWritten: like.bytes }, 'copy');
  }

  #instruct(node: Node | null, call: KernelCall, cost: Cost, name = node?.op.name ?? ''): void {
    const unused = node ? this.#unusedOutputs(node, call) : null;
    const buffers = call.buffers.map((value) => (value && !unused?.has(value) ? this.#ref(this.#home(value)) : null));
    const waits = new Set<number>();
    for (const value of call.buffers) {
      const writer = value && this.#asyncWriters.get(this.#home(value));
      if (writer !== null && writer !== undefined) waits.add(writer);
    }
    this.#push(name === 'copy' ? null : node, call, buffers, [...waits], cost, name);
    if (node && node.queue !== 'compute' && name !== 'copy') {
      for (const output of node.outputs) this.#asyncWriters.set(this.#home(output), this.#instructions.length - 1);
    }
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
    return { space: 'arena', index: 0, offset: holder.block.offset, bytes };
  }

  #push(
    node: Node | null,
    call: KernelCall,
    buffers: (BufferRef | null)[],
    waits: number[],
    cost: Cost,
    name: string,
  ): void {
    const params = packParams(call.kernel, call.params);
    const workspaceBytes = loadAddon().workspaceBytes(call.kernel, params, this.#threads);
    const workspace = workspaceBytes > 0 ? this.#arena.allocate(workspaceBytes) : null;
    const queue: Queue = node?.queue ?? 'compute';
    this.#instructions.push({
      kernel: call.kernel,
      params,
      queue,
      workspace: { offset: workspace?.offset ?? 0, bytes: workspaceBytes },
      predicate: node?.predicate ? this.#ref(this.#home(node.predicate)) : null,
      buffers,
      waits,
    });
    // A workspace on another queue is in use until the program ends.
    if (workspace && queue === 'compute') this.#arena.free(workspace);
    this.#workspaceBytes = Math.max(this.#workspaceBytes, workspaceBytes);
    this.#infos.push({ op: name, scope: node?.scope ?? '', kernel: call.kernel, ...cost });
  }
}

function reads(node: Node): Value[] {
  const extents = node.outputs.map((output) => (output.extent && output.extent.node !== node ? output.extent : null));
  return [...node.inputs, ...extents, node.predicate].filter((value): value is Value => value !== null);
}

function rootOf(value: Value): Value {
  let root = value;
  while (root.node.op.isView) root = root.node.inputs[0] as Value;
  return root;
}

function defaultCost(node: Node): Cost {
  const total = (values: readonly (Value | null)[]) =>
    values.reduce((bytes, value) => bytes + (value ? bytesOf(value.dtype, value.size) : 0), 0);
  return { flops: 0, bytesRead: total(node.inputs), bytesWritten: total(node.outputs) };
}

function joinBytes(parts: readonly Uint8Array[], bytes: number): Uint8Array {
  const joined = new Uint8Array(bytes);
  let offset = 0;
  for (const part of parts) {
    joined.set(part, offset);
    offset += Math.ceil(part.byteLength / 64) * 64;
  }
  return joined;
}
