import type { DType } from '../core/dtype.js';
import { bytesOf } from '../core/dtype.js';
import { HadalError, invariant } from '../core/errors.js';
import { formatShape, type Shape, sameShape, sizeOf } from '../core/shape.js';
import type { Attrs, Inputs, OpDefinition, Outputs, TypeSpec } from './op.js';
import { aliasOp, constantOp, inputOp, slotOp } from './sources.js';

/** Scope of what compresses gradients, whose time runs tell. */
export const compressionScope = 'compression';

/** Where an instruction runs: products and everything else, collectives, or transfers. */
export type Queue = 'compute' | 'communication' | 'copy';

/** One result of a node: a shape, a dtype and the node that made it. */
export class Value {
  /** int32 [1] Value that says how many entries of dim 0 are in use; null: all. Never read on the host. */
  extent: Value | null = null;

  constructor(
    readonly node: Node,
    readonly index: number,
    readonly shape: Shape,
    readonly dtype: DType,
  ) {}

  /** Number of elements. */
  get size(): number {
    return sizeOf(this.shape);
  }

  /** Bytes it takes, dense. */
  get bytes(): number {
    return bytesOf(this.dtype, this.size);
  }

  /** `fp32 [2, 3]` for messages. */
  get type(): string {
    return `${this.dtype} ${formatShape(this.shape)}`;
  }
}

/** An op applied to inputs. */
export class Node {
  readonly outputs: readonly Value[];
  /** Layer path in which it was traced, for messages and profiles: `model.layers.0.self_attn`. */
  scope = '';
  /** int32 [1]: the node runs only where it is not 0; else slots that its outputs update keep their content. */
  predicate: Value | null = null;
  queue: Queue = 'compute';
  /** Whether differentiation made it: it runs when the forward values that it reads could be computed once more. */
  isBackward = false;

  constructor(
    readonly graph: Graph,
    readonly id: number,
    readonly op: OpDefinition,
    readonly inputs: Inputs,
    readonly attrs: Attrs,
    types: readonly TypeSpec[],
  ) {
    this.outputs = types.map((type, index) => new Value(this, index, type.shape, type.dtype));
    types.forEach((type, index) => {
      if (!type.extent) return;
      const extent = type.extent instanceof Value ? type.extent : this.outputs[type.extent.output];
      (this.outputs[index] as Value).extent = extent ?? null;
    });
  }
}

/**
 * A traced program: nodes in the order they were added, which is an order they can run in.
 * Purely functional: reading a slot gives its value before the program; `update` says what it holds afterwards.
 */
export class Graph {
  readonly nodes: Node[] = [];
  readonly inputs = new Map<string, Value>();
  readonly slots = new Map<string, Value>();
  readonly updates = new Map<string, Value>();
  readonly outputs = new Map<string, Value>();
  /** Values to be looked at while they are there, by name. No results: nothing is kept or computed for them. */
  readonly watched = new Map<string, Value>();
  #scope = '';
  #predicate: Value | null = null;
  #queue: Queue = 'compute';
  #isBackward = false;

  /** Applies an op; returns its outputs. */
  add<A extends object, I extends Inputs, O extends Outputs>(op: OpDefinition<A, I, O>, inputs: I, attrs: A): O {
    const erased = op as unknown as OpDefinition;
    for (const input of inputs) {
      invariant(input === null || input.node.graph === this, `op '${op.name}' mixes values of two graphs`);
    }
    const node = new Node(
      this,
      this.nodes.length,
      erased,
      inputs,
      attrs as Attrs,
      erased.infer(inputs, attrs as Attrs),
    );
    node.scope = this.#scope;
    node.predicate = this.#predicate;
    node.queue = this.#queue;
    node.isBackward = this.#isBackward;
    this.nodes.push(node);
    return node.outputs as unknown as O;
  }

  /** Data handed in with every run, by name. */
  input(name: string, shape: Shape, dtype: DType): Value {
    return this.#source(this.inputs, inputOp, 'input', name, shape, dtype);
  }

  /** State that lives across runs (parameters, moments, counters, caches), by name. */
  slot(name: string, shape: Shape, dtype: DType): Value {
    return this.#source(this.slots, slotOp, 'slot', name, shape, dtype);
  }

  /** Data fixed at trace time. */
  constant(data: Float32Array | Int32Array, shape: Shape): Value {
    invariant(sizeOf(shape) === data.length, `constant of ${data.length} numbers for shape ${formatShape(shape)}`);
    const value = this.add(constantOp, [], { data, shape })[0];
    value.node.predicate = null;
    return value;
  }

  /** The same value as a node of its own: a place where a gradient can be asked for. */
  alias(value: Value): Value {
    return this.add(aliasOp, [value], {})[0];
  }

  /** The slot holds `value` after the run. */
  update(slotName: string, value: Value): void {
    const slot = this.slots.get(slotName);
    if (!slot)
      throw new HadalError('HADAL_ERR_INTERNAL', `[graph] expected a slot named '${slotName}' to update, found none`);
    if (!sameShape(slot.shape, value.shape) || slot.dtype !== value.dtype) {
      throw new HadalError('HADAL_ERR_SHAPE', `[graph] slot '${slotName}' expected ${slot.type}, got ${value.type}`);
    }
    this.updates.set(slotName, value);
  }

  /** A value the caller reads after the run. */
  output(name: string, value: Value): void {
    this.outputs.set(name, value);
  }

  /** Nodes added by `body` carry the layer path. */
  scoped<T>(name: string, body: () => T): T {
    const outer = this.#scope;
    this.#scope = outer ? `${outer}.${name}` : name;
    try {
      return body();
    } finally {
      this.#scope = outer;
    }
  }

  /** Nodes added by `body` belong where `node` does: layer path, predicate and queue. Gradient rules use it. */
  beside<T>(node: Node, body: () => T): T {
    const outer = [this.#scope, this.#predicate, this.#queue] as const;
    [this.#scope, this.#predicate, this.#queue] = [node.scope, node.predicate, node.queue];
    try {
      return body();
    } finally {
      [this.#scope, this.#predicate, this.#queue] = outer;
    }
  }

  /** Nodes added by `body` are part of a backward pass. */
  differentiating<T>(body: () => T): T {
    const outer = this.#isBackward;
    this.#isBackward = true;
    try {
      return body();
    } finally {
      this.#isBackward = outer;
    }
  }

  /** Nodes added by `body` run only where `predicate` (int32 [1]) is not 0. */
  predicated<T>(predicate: Value, body: () => T): T {
    invariant(this.#predicate === null, 'predicated ranges do not nest');
    this.#predicate = predicate;
    try {
      return body();
    } finally {
      this.#predicate = null;
    }
  }

  /** Nodes added by `body` go to another queue; their results must pass `wait` before compute uses them. */
  onQueue<T>(queue: Queue, body: () => T): T {
    const outer = this.#queue;
    this.#queue = queue;
    try {
      return body();
    } finally {
      this.#queue = outer;
    }
  }

  #source(
    table: Map<string, Value>,
    op: typeof inputOp,
    kind: string,
    name: string,
    shape: Shape,
    dtype: DType,
  ): Value {
    const known = table.get(name);
    if (known) {
      invariant(
        sameShape(known.shape, shape) && known.dtype === dtype,
        `${kind} '${name}' declared twice with two types`,
      );
      return known;
    }
    const value = this.add(op, [], { name, shape, dtype })[0];
    value.node.predicate = null; // what comes from outside is there, whatever runs
    table.set(name, value);
    return value;
  }
}

/** The graph that a node's inputs belong to. */
export function graphOf(inputs: Inputs): Graph {
  const value = inputs.find((input) => input !== null);
  invariant(value, 'an op without inputs has no graph');
  return value.node.graph;
}
