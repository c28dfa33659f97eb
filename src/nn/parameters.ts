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
  /** Names under which the directory holds the same tensor once more (MTP's embedding and head). */
  copies: string[];
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
  ) {}

  /** The scope of a module within this one. */
  child(name: string | number): ParameterScope {
    return new ParameterScope(this.graph, this.parameters, this.join(String(name)), this.dtype);
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
    if (!this.parameters.has(path)) {
      let offset = 0;
      const placed = parts.map((part) => {
        const at = offset;
        offset += sizeOf(part.shape);
        return { name: this.join(part.name), shape: part.shape, offset: at };
      });
      invariant(offset === sizeOf(shape), `the parts of parameter '${path}' do not add up`);
      const spec = { name: path, shape, dtype, initializer, decay, trainable, routed, parts: placed, copies: [] };
      this.parameters.set(path, spec);
    }
    return this.graph.slot(path, shape, dtype);
  }

  /** Says that the directory holds a parameter a second time, under `name` of this module. */
  copyOf(parameter: string, name: string): void {
    const copies = this.parameters.get(parameter)?.copies;
    invariant(copies, `no parameter '${parameter}' to copy`);
    if (!copies.includes(this.join(name))) copies.push(this.join(name));
  }
}
