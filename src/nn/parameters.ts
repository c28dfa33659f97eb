import type { DType } from '../core/dtype.js';
import { invariant } from '../core/errors.js';
import { type Shape, sizeOf } from '../core/shape.js';
import type { Graph, Value } from '../graph/graph.js';

/** How a parameter begins. */
export type Initializer = { kind: 'normal'; std: number } | { kind: 'zeros' } | { kind: 'ones' };

/** A tensor on disk that is a contiguous part of a parameter. */
export interface ParameterPart {
  /** Hugging Face name. */
  name: string;
  shape: Shape;
  /** First element within the parameter. */
  offset: number;
  /** There where the part is some rows of the tensor on disk, not all: the first of them, and how many the tensor has. */
  rows?: { first: number; of: number };
}

/** A weight that is stored as a product, left [.., M, R] · right [.., R, N]. */
export interface FactoredWeight {
  name: string;
  /** [.., M, N]. */
  shape: Shape;
  rank: number;
  /** Names of the parameters. */
  left: string;
  right: string;
  /** Tensors of a Hugging Face directory that hold the product. */
  parts: ParameterPart[];
  copies: ParameterPart[];
}

/** A parameter: a state slot, how it begins, and which tensors of a Hugging Face directory it holds. */
export interface Parameter {
  name: string;
  shape: Shape;
  dtype: DType;
  initializer: Initializer;
  /** Whether weight decay applies: matrices yes; norms, biases and the router's bias no. */
  decay: boolean;
  /** False for what the optimizer does not touch (the router's correction bias). */
  trainable: boolean;
  /** Active with every token; false for routed experts, of which a token uses a share. */
  routed: boolean;
  parts: ParameterPart[];
  /** Tensors with which the directory holds the same once more (MTP's embedding and head; layers that share it). */
  copies: ParameterPart[];
  /** The weight that it is a factor of; its part is a tensor of a file of our own then, beside Hugging Face's. */
  factorOf: FactoredWeight | null;
}

/** The tensors that a parameter is shown as: those on disk, or itself where it is only some of their rows. */
export function shownParts({ name, shape, parts }: Parameter): readonly ParameterPart[] {
  return parts.some(({ rows }) => rows) ? [{ name, shape, offset: 0 }] : parts;
}

/** How a weight that a layer declares is stored, where it is not a parameter of its own. */
export interface WeightStore {
  parameters: readonly Parameter[];
  /** The weight, made of their values. */
  weightOf(values: readonly Value[]): Value;
}

/** Options of {@link ParameterScope.parameter}. */
export interface ParameterOptions {
  decay?: boolean;
  trainable?: boolean;
  routed?: boolean;
  /** The scope's unless given. */
  dtype?: DType;
  /** Tensors on disk, when it is not one tensor of the parameter's own name. */
  parts?: readonly { name: string; shape: Shape }[];
}

/** Where layers declare their parameters; names are those of Hugging Face's modules. */
export class ParameterScope {
  constructor(
    readonly graph: Graph,
    readonly parameters: Map<string, Parameter>,
    readonly path = '',
    readonly dtype: DType = 'fp32',
    /** By the name of the weight. */
    readonly stores: ReadonlyMap<string, WeightStore> = new Map(),
  ) {}

  /** The same scope, whose weights are stored otherwise. */
  storing(stores: ReadonlyMap<string, WeightStore>): ParameterScope {
    return new ParameterScope(this.graph, this.parameters, this.path, this.dtype, stores);
  }

  /** The scope of a module within this one. */
  child(name: string | number): ParameterScope {
    return new ParameterScope(this.graph, this.parameters, this.join(String(name)), this.dtype, this.stores);
  }

  /** Runs a layer in the scope of its module, so that its nodes carry the module's name. */
  within<T>(name: string | number, layer: (scope: ParameterScope) => T): T {
    return this.graph.scoped(String(name), () => layer(this.child(name)));
  }

  /** A name within this module. */
  join(name: string): string {
    return this.path ? `${this.path}.${name}` : name;
  }

  /** Declares a parameter; twice under one name is one shared parameter. */
  parameter(name: string, shape: Shape, initializer: Initializer, options: ParameterOptions = {}): Value {
    const path = this.join(name);
    const {
      decay = shape.length > 1,
      trainable = true,
      routed = false,
      dtype = this.dtype,
      parts = [{ name, shape }],
    } = options;
    const store = this.stores.get(path);
    if (store) return store.weightOf(store.parameters.map((parameter) => this.#stored({ ...parameter, dtype })));
    if (!this.parameters.has(path)) {
      let offset = 0;
      const placed = parts.map((part) => {
        const at = offset;
        offset += sizeOf(part.shape);
        return { name: this.join(part.name), shape: part.shape, offset: at };
      });
      invariant(offset === sizeOf(shape), `the parts of parameter '${path}' do not add up`);
      const kind = { initializer, decay, trainable, routed };
      this.#stored({ name: path, shape, dtype, ...kind, parts: placed, copies: [], factorOf: null });
    }
    return this.graph.slot(path, shape, dtype);
  }

  #stored(parameter: Parameter): Value {
    const { name, shape, dtype } = parameter;
    if (!this.parameters.has(name)) this.parameters.set(name, parameter);
    return this.graph.slot(name, shape, dtype);
  }

  /** Says that the directory holds a parameter a second time, under `name` of this module. */
  copyOf(parameter: string, name: string): void {
    if (this.stores.has(parameter)) return; // who stores it otherwise knows its copies
    const { shape, copies } = this.parameters.get(parameter) ?? {};
    invariant(shape && copies, `no parameter '${parameter}' to copy`);
    const copy = { name: this.join(name), shape, offset: 0 };
    if (!copies.some((known) => known.name === copy.name)) copies.push(copy);
  }
}
