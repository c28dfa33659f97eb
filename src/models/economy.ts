// Fewer numbers for the same model: weights that layers share (Dehghani et al. 2018, arXiv:1807.03819; Lan et al. 2019,
// arXiv:1909.11942), and weights that are stored as products of two of low rank. Layers know nothing of it: what they declare
// is made of what is stored.
// M, N rows and columns of a matrix, R its rank, S rows that are shared.
import { HadalError, invariant } from '../core/errors.js';
import { matcherOf } from '../core/name-pattern.js';
import { nearest } from '../core/nearest.js';
import { formatShape, type Shape, sameShape, sizeOf } from '../core/shape.js';
import type { Value } from '../graph/graph.js';
import type { FactoredWeight, Parameter, ParameterPart, WeightStore } from '../nn/parameters.js';
import { matmul } from '../ops/matmul.js';
import { concat, reshape } from '../ops/shape.js';
import { type Economy, economyToHuggingFace, joinEconomies } from './economy-config.js';
import { type Model, parametersOf } from './model.js';

/**
 * The model with weights shared and factorised.
 *
 * @param model - one that already shares or factorises does so further on
 * @throws HadalError HADAL_ERR_CONFIG for rules that fit no weight, weights of different shapes, ranks that save nothing
 */
export function withEconomy(model: Model, economy: Economy): Model {
  const { of: plain, ...known } = model.economy ?? { of: model, ties: [], lowRank: [] };
  const all = joinEconomies(known, economy);
  if (all.ties.length === known.ties.length && all.lowRank.length === known.lowRank.length) return model;
  const stores = storesOf(plain, all);
  const { predictAhead } = plain;
  return {
    ...plain,
    economy: { of: plain, ...all },
    forward: (scope, inputs) => plain.forward(scope.storing(stores), inputs),
    ...(predictAhead && {
      predictAhead: (scope, ...rest) => predictAhead.call(plain, scope.storing(stores), ...rest),
    }),
    toHuggingFace: () => ({ ...plain.toHuggingFace(), hadal: economyToHuggingFace(all) }),
  };
}

/** Weights that are one: the first layer's, and all of them. `share`: of their rows. */
interface Tied {
  weights: readonly Parameter[];
  share: number;
}

/** How every weight is stored that is not a parameter of its own. */
function storesOf(model: Model, { ties, lowRank }: Economy): Map<string, WeightStore> {
  const declared = parametersOf(model);
  const tiedBy = new Map<string, Tied>();
  for (const tie of ties) {
    for (const tied of tiedWeights(declared, tie)) {
      for (const { name } of tied.weights) {
        if (tiedBy.has(name)) throw refusal('ties', `each weight tied once`, `'${name}' twice`);
        tiedBy.set(name, tied);
      }
    }
  }
  const ranks = ranksOf(declared, tiedBy, lowRank);

  const stores = new Map<string, WeightStore>();
  for (const weight of declared.values()) {
    const tied = tiedBy.get(weight.name) ?? { weights: [weight], share: 1 };
    const first = tied.weights[0] as Parameter;
    if (tied.share < 1) {
      stores.set(weight.name, sharedRows(tied, weight));
      continue;
    }
    const whole = { ...first, copies: [...first.copies, ...tied.weights.slice(1).flatMap(tensorsOf)] };
    const rank = ranks.get(first.name);
    if (rank !== undefined) stores.set(weight.name, product(whole, rank));
    else if (tied.weights.length > 1)
      stores.set(weight.name, { parameters: [whole], weightOf: ([value]) => value as Value });
  }
  return stores;
}

const tensorsOf = ({ parts, copies }: Parameter): ParameterPart[] => [...parts, ...copies];

/** The groups that a rule ties. */
function tiedWeights(
  declared: ReadonlyMap<string, Parameter>,
  { match, neighbours, share = 1 }: Economy['ties'][number],
) {
  const layers = new Map<string, Map<string, Parameter>>();
  for (const weight of matching('ties', declared, match)) {
    const [, before, layer, after] = /^(.*?\.)(\d+)(\..*)$/.exec(weight.name) ?? [];
    if (layer === undefined) throw refusal('ties', `names of layers' weights for '${match}'`, `'${weight.name}'`);
    layers.set(layer, (layers.get(layer) ?? new Map()).set(`${before}*${after}`, weight));
  }
  const order = [...layers.keys()].sort((a, b) => Number(a) - Number(b));
  const runs: string[][] = [];
  for (let i = 0; i < order.length; i += neighbours ?? order.length)
    runs.push(order.slice(i, i + (neighbours ?? order.length)));
  const groups: Tied[] = [];
  for (const run of runs.filter(({ length }) => length > 1)) {
    const [first = '', ...others] = run;
    const kinds = layers.get(first) as Map<string, Parameter>;
    for (const other of others)
      requireAlike(match, [first, kinds], [other, layers.get(other) as Map<string, Parameter>]);
    for (const kind of kinds.keys())
      groups.push({ weights: run.map((layer) => layers.get(layer)?.get(kind) as Parameter), share });
  }
  if (groups.length === 0)
    throw refusal('ties', `weights of two layers or more for '${match}'`, `those of layer ${order[0]} alone`);
  return groups;
}

type Layer = readonly [number: string, weights: ReadonlyMap<string, Parameter>];

/** Layers that share must have the same weights, of the same shapes. */
function requireAlike(match: string, [first, weights]: Layer, [other, others]: Layer): void {
  const lone =
    [...weights.keys()].find((kind) => !others.has(kind)) ?? [...others.keys()].find((kind) => !weights.has(kind));
  if (lone !== undefined) {
    const [has, lacks] = weights.has(lone) ? [first, other] : [other, first];
    throw refusal(
      'ties',
      `layers alike for '${match}'`,
      `'${lone}' in layer ${has} and none in layer ${lacks}; name the layers, as in model.layers.{1,2}.*`,
    );
  }
  for (const [kind, { name, shape }] of weights) {
    const weight = others.get(kind) as Parameter;
    if (!sameShape(shape, weight.shape)) {
      throw refusal('ties', `'${weight.name}' of shape ${formatShape(shape)}, as '${name}'`, formatShape(weight.shape));
    }
  }
}

/** Ranks by the name of the weight that is stored so. */
function ranksOf(
  declared: ReadonlyMap<string, Parameter>,
  tiedBy: ReadonlyMap<string, Tied>,
  rules: Economy['lowRank'],
): Map<string, number> {
  const found = new Map<string, number>();
  for (const { match, rank, share = 1 } of rules) {
    const isMatrix = ({ shape, initializer }: Parameter) => shape.length > 1 && initializer.kind === 'normal';
    const matrices = matching('lowRank', declared, match).filter(isMatrix);
    if (matrices.length === 0) throw refusal('lowRank', `the name of a matrix for '${match}'`, 'vectors alone');
    const names = new Set(
      matrices.map(({ name }) => {
        const {
          weights: [first],
          share: shared,
        } = tiedBy.get(name) ?? { weights: [], share: 1 };
        if (shared < 1) throw refusal('lowRank', `a weight whose rows are all shared or all its own`, `'${name}'`);
        return first?.name ?? name;
      }),
    );
    for (const name of names) {
      const { shape } = declared.get(name) as Parameter;
      const [rows, columns] = shape.slice(-2) as [number, number];
      const chosen = rank ?? Math.max(1, Math.round((share * rows * columns) / (rows + columns)));
      if (found.has(name)) throw refusal('lowRank', 'each weight factorised once', `'${name}' twice`);
      if (chosen * (rows + columns) >= rows * columns) {
        const most = Math.ceil((rows * columns) / (rows + columns)) - 1;
        throw refusal(
          'lowRank',
          `a rank of at most ${most} for '${name}' of shape ${formatShape(shape)}, else nothing is saved`,
          `${chosen}`,
        );
      }
      found.set(name, chosen);
    }
  }
  return found;
}

/** Trained parameters that a pattern names: the router's correction bias is each layer's own always. */
function matching(field: keyof Economy, declared: ReadonlyMap<string, Parameter>, match: string): Parameter[] {
  const fits = matcherOf(match);
  const trained = [...declared.values()].filter(({ trainable }) => trainable);
  const found = trained.filter(({ name }) => fits(name));
  if (found.length > 0) return found;
  const near = nearest(
    match,
    trained.map(({ name }) => name),
  );
  throw refusal(
    field,
    'a pattern that fits parameters of the model',
    `'${match}', which fits none${near ? `; did you mean '${near}'?` : ''}`,
  );
}

const refusal = (field: keyof Economy, expected: string, got: string): HadalError =>
  new HadalError('HADAL_ERR_CONFIG', `[model] field '${field}' expected ${expected}, got ${got}`);

/** `model.layers.0.mlp.down_proj.left.weight`. */
const beside = (name: string, role: string): string => name.replace(/(\.weight)?$/, `.${role}$1`);

/** left [.., M, R] · right [.., R, N]. Factors begin alike, so that the product's variance R·σ⁴ is the weight's. */
function product(whole: Parameter, rank: number): WeightStore {
  const { name, shape, initializer, parts, copies } = whole;
  invariant(initializer.kind === 'normal', `'${name}' begins with equal numbers`);
  const [left, right] = [beside(name, 'left'), beside(name, 'right')];
  const factorOf: FactoredWeight = { name, shape, rank, left, right, parts, copies };
  const std = Math.sqrt(initializer.std / Math.sqrt(rank));
  const factor = (own: string, size: Shape): Parameter => ({
    ...whole,
    name: own,
    shape: size,
    initializer: { kind: 'normal', std },
    parts: [{ name: own, shape: size, offset: 0 }],
    copies: [],
    factorOf,
  });
  const [outer, rows, columns] = [shape.slice(0, -2), ...shape.slice(-2)] as [number[], number, number];
  return {
    parameters: [factor(left, [...outer, rows, rank]), factor(right, [...outer, rank, columns])],
    weightOf: (values) => matmul(...(values as [Value, Value])),
  };
}

/** The first S rows of each tensor on disk from the first layer, the others the layer's own. */
function sharedRows({ weights, share }: Tied, weight: Parameter): WeightStore {
  const first = weights[0] as Parameter;
  const part = first.parts[0] as ParameterPart;
  const isEven = weights.every(
    (one) => one.copies.length === 0 && one.parts.every(({ shape }) => sameShape(shape, part.shape)),
  );
  invariant(isEven, `the parts of '${first.name}' differ`);
  const of = part.shape[0] as number;
  const shared = Math.round(share * of);
  if (shared === 0 || shared === of) {
    throw refusal('ties', `a share that is some, but not all, of ${of} rows for '${first.name}'`, `${share}`);
  }
  const count = first.parts.length;
  const rowSize = sizeOf(part.shape.slice(1));
  const rows = (from: Parameter, role: string, start: number, end: number): Parameter => {
    const placed = (one: Parameter) =>
      one.parts.map(({ name }, i) => ({
        name,
        shape: [end - start, ...part.shape.slice(1)],
        offset: i * (end - start) * rowSize,
        rows: { first: start, of },
      }));
    return {
      ...from,
      name: beside(from.name, role),
      shape: [...(count > 1 ? [count] : []), end - start, ...part.shape.slice(1)],
      parts: placed(from),
      copies: role === 'shared' ? weights.slice(1).flatMap(placed) : [],
    };
  };
  return {
    parameters: [rows(first, 'shared', 0, shared), rows(weight, 'own', shared, of)],
    weightOf: (values) => reshape(concat(values, count > 1 ? 1 : 0), weight.shape),
  };
}
