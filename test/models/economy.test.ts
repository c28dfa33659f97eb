// Models whose weights are shared or products of two: what is stored, how it is computed, and what is refused.
import { describe, expect, it } from 'vitest';
import { gradients } from '../../src/autodiff/gradients.js';
import { sizeOf } from '../../src/core/shape.js';
import { batchFromRows } from '../../src/data/batch.js';
import { Graph, type Value } from '../../src/graph/graph.js';
import { withEconomy } from '../../src/models/economy.js';
import type { Economy } from '../../src/models/economy-config.js';
import { modelFromConfig } from '../../src/models/families.js';
import { countModel } from '../../src/models/inspect.js';
import { batchInputs, type Model, parameterCounts, parametersOf } from '../../src/models/model.js';
import { ParameterScope } from '../../src/nn/parameters.js';
import { applyFactors } from '../../src/passes/apply-factors.js';
import { type Pass, runPasses } from '../../src/passes/pipeline.js';
import { plan } from '../../src/runtime/plan.js';
import type { Tensor } from '../../src/runtime/tensor.js';
import { languageModelLoss, lossScales } from '../../src/train/losses.js';
import { relativeNorm } from '../support/compare.js';
import { expectHadalError, testDevice } from '../support/op-case.js';
import { Rng } from '../support/rng.js';
import { randomRows, tinyConfig } from '../train/tiny.js';

const plain = modelFromConfig({ ...tinyConfig, num_hidden_layers: 4 });
const llamaConfig = {
  model_type: 'llama',
  vocab_size: 61,
  hidden_size: 16,
  intermediate_size: 32,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  max_position_embeddings: 64,
  initializer_range: 0.1,
};
const gpt2Config = { model_type: 'gpt2', vocab_size: 61, n_positions: 64, n_embd: 16, n_layer: 2, n_head: 2 };
const economical = (economy: Partial<Economy>, model = plain) =>
  withEconomy(model, { ties: [], lowRank: [], ...economy });
const sizes = (model: Model) => [...parametersOf(model).values()].reduce((sum, { shape }) => sum + sizeOf(shape), 0);

type Numbers = Map<string, Float64Array | Float32Array>;

/** Random numbers of every parameter. */
function randomWeights(model: Model, seed: string): Numbers {
  const rng = new Rng(seed);
  return new Map(
    [...parametersOf(model).values()].map(({ name, shape, initializer }) => [
      name,
      Float32Array.from({ length: sizeOf(shape) }, () => (initializer.kind === 'ones' ? 1 : 0) + 0.1 * rng.normal()),
    ]),
  );
}

/** Loss and the gradients by all parameters. */
async function lossAndGradients(model: Model, weights: Numbers, pass: Pass = (graph) => graph) {
  const batch = batchFromRows(randomRows(3, [12, 9]), { seqLen: 12, mtpDepth: model.mtpDepth });
  const traced = new Graph();
  const inputs = batchInputs(traced, 2, 12, model.mtpDepth);
  const parameters = [...parametersOf(model).values()].filter(({ trainable }) => trainable);
  const output = model.forward(new ParameterScope(traced, new Map()), inputs);
  const { main, mtp, balance } = languageModelLoss(output, inputs, lossScales(traced, model.mtpDepth), {
    labelSmoothing: 0,
    zLoss: 0,
    chunkRows: 0,
  });
  traced.output('main', main);
  for (const [k, value] of mtp.entries()) traced.output(`mtp${k}`, value);
  if (balance) traced.output('balance', balance);

  const graph = pass(traced);
  const terms = [...graph.outputs.values()];
  const { add } = await import('../../src/ops/elementwise.js');
  const loss = terms.slice(1).reduce((sum, term) => add(sum, term), terms[0] as Value);
  graph.outputs.clear();
  graph.output('loss', loss);
  const found = gradients(
    loss,
    parameters.map(({ name, shape, dtype }) => graph.slot(name, shape, dtype)),
  );
  for (const [i, { name }] of parameters.entries()) graph.output(`gradient ${name}`, found[i] as Value);

  const device = testDevice();
  const program = device.load(plan(runPasses(graph), device.target));
  const slots: Record<string, Tensor> = {};
  for (const { name, shape, dtype } of [...program.slots, ...program.outputs]) {
    slots[name] = device.allocate(shape, dtype);
    const data = weights.get(name);
    if (data) await slots[name].write(Float32Array.from(data));
  }
  const { tokens, positions, docIds, labels, mtpTokens, mtpLabels } = batch;
  const one = Float32Array.of(1 / batch.counts.labels);
  const numbered = (name: string, arrays: readonly Int32Array[]) =>
    Object.fromEntries(arrays.map((array, k) => [`${name}${k + 1}`, array]));
  const given: Record<string, NodeJS.TypedArray> = {
    ...{ tokens, positions, docIds, labels, mainScale: one, mtpScale1: one, balanceScale: one },
    ...numbered('mtpTokens', mtpTokens),
    ...numbered('mtpLabels', mtpLabels),
  };
  const bound = Object.fromEntries(program.inputs.map(({ name }) => [name, given[name] as NodeJS.TypedArray]));
  await device.run([{ program, slots, inputs: bound }]);
  const read = async (name: string) => (slots[name] as Tensor).toFloat32();
  const result = {
    loss: (await read('loss'))[0] as number,
    gradients: new Map(
      await Promise.all(parameters.map(async ({ name }) => [name, await read(`gradient ${name}`)] as const)),
    ),
    nodes: graph.nodes,
  };
  for (const tensor of Object.values(slots)) tensor.dispose();
  return result;
}

const sumOf = (...all: (ArrayLike<number> | undefined)[]) =>
  Array.from(all[0] ?? [], (_, i) => all.reduce((sum, values) => sum + (values?.[i] as number), 0));

describe('ties', () => {
  it('are one parameter, whose gradient is the sum of those it would have in each layer', async () => {
    const tied = economical({ ties: [{ match: 'model.layers.{1,3}.*' }] });
    const weights = randomWeights(tied, 'tied');
    const untied = new Map(
      [...randomWeights(plain, 'x')].map(([name, random]) => {
        const shared = name.replace('layers.3.', 'layers.1.');
        return [name, weights.get(name) ?? weights.get(shared) ?? random];
      }),
    );
    // The correction bias is no trained weight, and each layer's own.
    expect(weights.has('model.layers.3.mlp.gate.e_score_correction_bias')).toBe(true);
    expect([...weights.keys()].filter((name) => name.includes('layers.3.'))).toHaveLength(1);
    const one = await lossAndGradients(tied, weights);
    const other = await lossAndGradients(plain, untied);
    expect(one.loss).toBeCloseTo(other.loss, 5);
    for (const [name, gradient] of one.gradients) {
      const twin = name.includes('layers.1.') ? other.gradients.get(name.replace('layers.1.', 'layers.3.')) : undefined;
      const expected = sumOf(other.gradients.get(name), ...(twin ? [twin] : []));
      expect(Math.hypot(...expected), name).toBeGreaterThan(0);
      expect(relativeNorm(gradient, expected), name).toBeLessThan(2e-5);
    }
  });

  it('of neighbours are pairs, and the layer that is left stays alone', () => {
    const names = [
      ...parametersOf(economical({ ties: [{ match: '*.self_attn.o_proj.weight', neighbours: 2 }] })).keys(),
    ];
    const layers = names.flatMap((name) => /layers\.(\d)\.self_attn\.o_proj/.exec(name)?.[1] ?? []);
    expect(layers).toEqual(['0', '2', '4']);
  });

  it("of a share of rows: these are common, the others each layer's own", async () => {
    const match = 'model.layers.{1,2}.{self_attn.kv_b_proj.weight,mlp.experts.gate_up_proj}';
    const shared = economical({ ties: [{ match, share: 0.4 }] });
    const weights = randomWeights(shared, 'shared');
    const untied = new Map(randomWeights(plain, 'x'));
    for (const [name] of untied) untied.set(name, weights.get(name) ?? (untied.get(name) as Float32Array));
    /** Both layers' whole tensors: of each expert's gate and up, the first rows are common. */
    const assemble = (
      from: (name: string) => ArrayLike<number>,
      weight: string,
      tensors: number,
      rows: number,
      common: number,
    ) => {
      const suffix = weight.endsWith('.weight') ? '.weight' : '';
      const base = (layer: number, role: string) =>
        `model.layers.${layer}.${weight.replace(/\.weight$/, '')}.${role}${suffix}`;
      return [1, 2].map((layer) => {
        const [first, own] = [Array.from(from(base(1, 'shared'))), Array.from(from(base(layer, 'own')))];
        const width = first.length / (tensors * common);
        const at = (values: number[], count: number, t: number) =>
          values.slice(t * count * width, (t + 1) * count * width);
        return Array.from({ length: tensors }, (_, t) => [
          ...at(first, common, t),
          ...at(own, rows - common, t),
        ]).flat();
      });
    };
    const cases = [
      ['self_attn.kv_b_proj.weight', 1, 30, 12],
      ['mlp.experts.gate_up_proj', 16, 12, 5],
    ] as const;
    for (const [weight, tensors, rows, common] of cases) {
      const whole = assemble((name) => weights.get(name) ?? [], weight, tensors, rows, common);
      const [one, two] = whole as [number[], number[]];
      untied.set(`model.layers.1.${weight}`, Float32Array.from(one));
      untied.set(`model.layers.2.${weight}`, Float32Array.from(two));
    }
    const one = await lossAndGradients(shared, weights);
    const other = await lossAndGradients(plain, untied);
    expect(one.loss).toBeCloseTo(other.loss, 5);
    for (const [weight, tensors, rows, common] of cases) {
      // The gradient of common rows is a sum: put it beside each layer's own, and take the sum of both layers.
      const [a, b] = assemble((name) => one.gradients.get(name) ?? [], weight, tensors, rows, common) as [
        number[],
        number[],
      ];
      const [x, y] = [1, 2].map((layer) => other.gradients.get(`model.layers.${layer}.${weight}`) as Float32Array) as [
        Float32Array,
        Float32Array,
      ];
      const width = x.length / (tensors * rows);
      const isCommon = (i: number) => Math.floor(i / width) % rows < common;
      const expected = (own: Float32Array) =>
        Array.from(own, (g, i) => (isCommon(i) ? (x[i] as number) + (y[i] as number) : g));
      expect(relativeNorm(a, expected(x)), weight).toBeLessThan(2e-5);
      expect(relativeNorm(b, expected(y)), weight).toBeLessThan(2e-5);
    }
    expect(sizes(plain) - sizes(shared)).toBe(12 * 10 + 16 * 5 * 24);
  });
});

it('a tied embedding of a DeepSeek has the gradients of embedding and head, summed', async () => {
  const tied = modelFromConfig({ ...tinyConfig, tie_word_embeddings: true });
  const weights = randomWeights(tied, 'tied embedding');
  const table = 'model.embed_tokens.weight';
  const one = await lossAndGradients(tied, weights);
  const untied = new Map([...weights, ['lm_head.weight', weights.get(table) as Float32Array]]);
  const other = await lossAndGradients(modelFromConfig(tinyConfig), untied);
  expect(one.gradients.has('lm_head.weight')).toBe(false);
  const expected = sumOf(other.gradients.get(table), other.gradients.get('lm_head.weight'));
  expect(relativeNorm(one.gradients.get(table) ?? [], expected)).toBeLessThan(2e-5);
});

describe('products of low rank', () => {
  const rules: [string, Model, Economy['lowRank']][] = [
    [
      'in a DeepSeek',
      plain,
      [
        { match: 'model.layers.*.mlp.*_proj*', rank: 3 },
        { match: '*.kv_b_proj.weight', rank: 2 },
        { match: '*.o_proj.weight', share: 0.5 },
      ],
    ],
    ['in a Llama, head and embedding too', modelFromConfig(llamaConfig), [{ match: '*', rank: 4 }]],
    [
      'in a Llama that ties them',
      modelFromConfig({ ...llamaConfig, tie_word_embeddings: true }),
      [{ match: '*', rank: 4 }],
    ],
    ['in a GPT-2', modelFromConfig(gpt2Config), [{ match: 'transformer.*', rank: 5 }]],
  ];
  it.each(rules)('compute what the dense product does %s', async (_, model, lowRank) => {
    const factorised = economical({ lowRank }, model);
    const weights = randomWeights(factorised, 'factors');
    const dense = new Map<string, Float64Array | Float32Array>();
    const factors = new Map(
      [...parametersOf(factorised).values()].flatMap(({ factorOf }) => (factorOf ? [[factorOf.name, factorOf]] : [])),
    );
    expect(factors.size).toBeGreaterThan(5);
    for (const { name, shape } of parametersOf(model).values()) {
      const weight = factors.get(name);
      const [rows, columns] = shape.slice(-2) as [number, number];
      dense.set(
        name,
        weight
          ? products(weights.get(weight.left), weights.get(weight.right), rows, weight.rank, columns)
          : (weights.get(name) as Float32Array),
      );
    }
    const apart = await lossAndGradients(factorised, weights, applyFactors);
    const whole = await lossAndGradients(factorised, weights);
    const reference = await lossAndGradients(model, dense);
    expect(apart.nodes.length).not.toBe(whole.nodes.length);
    expect(apart.loss).toBeCloseTo(reference.loss, 5);
    for (const [name, gradient] of apart.gradients) {
      const weight = [...factors.values()].find(({ left, right }) => left === name || right === name);
      const expected = weight
        ? factorGradient(
            weight.left === name,
            reference.gradients.get(weight.name),
            weights.get(weight.left),
            weights.get(weight.right),
            weight,
          )
        : (reference.gradients.get(name) as Float32Array);
      expect(Math.hypot(...expected), name).toBeGreaterThan(0);
      expect(relativeNorm(gradient, expected), name).toBeLessThan(5e-5);
      expect(relativeNorm(whole.gradients.get(name) as Float32Array, expected), name).toBeLessThan(5e-5);
    }
  });

  it('never make the weight, nor its gradient', () => {
    const model = economical({ lowRank: [{ match: '*', rank: 4 }] }, modelFromConfig(llamaConfig));
    const graph = new Graph();
    const { hidden, head } = model.forward(new ParameterScope(graph, new Map()), batchInputs(graph, 2, 12, 0));
    graph.output('hidden', hidden);
    graph.output('head', head);
    const applied = runPasses(graph, [['apply-factors', applyFactors]]);
    const live = runPasses(applied);
    const shapes = live.nodes
      .filter(({ op }) => op.name.startsWith('matmul'))
      .map(({ outputs }) => outputs[0]?.shape.length);
    // Of the head, which is asked for itself, the product stays.
    expect(shapes.filter((rank) => rank === 2)).toHaveLength(1);
  });

  it('begin with the variance of the weight', () => {
    const model = economical({ lowRank: [{ match: '*.down_proj.weight', rank: 4 }] });
    const factors = [...parametersOf(model).values()].filter(({ factorOf }) => factorOf);
    for (const { initializer } of factors) {
      expect(initializer.kind === 'normal' && 4 * initializer.std ** 4).toBeCloseTo(0.1 ** 2, 8);
    }
  });
});

describe('counts', () => {
  it('have what is shared once, and factors instead of weights', () => {
    const lowRank = [{ match: 'model.layers.*.mlp.shared_experts.down_proj.weight', rank: 2 }];
    const ties = [{ match: 'model.layers.{1,2}.mlp.shared_experts.*' }];
    const model = economical({ ties, lowRank });
    // Layers 1 and 2 share, 3 and the prediction module 4 have their own.
    const [dense, factors] = [24 * 12, 2 * (24 + 12)];
    expect(parameterCounts(plain).total - parameterCounts(model).total).toBe(4 * dense - 3 * factors + 2 * 12 * 24);
    expect(countModel(model, 16).withMtp?.parameters).toBe(parameterCounts(model).total);
  });

  it('of work have a shared weight in each layer, and factors once each', () => {
    const flops = (model: Model) => countModel(model, 16).model.flopsPerToken;
    expect(flops(economical({ ties: [{ match: 'model.layers.{1,2}.mlp.shared_experts.*' }] }))).toBe(flops(plain));
    const match = 'model.layers.{1,2}.{self_attn.kv_b_proj.weight,mlp.experts.gate_up_proj}';
    expect(flops(economical({ ties: [{ match, share: 0.4 }] }))).toBe(flops(plain));
    const saved = 24 * 40 - 3 * (24 + 40);
    expect(
      flops(plain) - flops(economical({ lowRank: [{ match: 'model.layers.0.mlp.down_proj.weight', rank: 3 }] })),
    ).toBe(6 * saved);
    const llama = modelFromConfig({ ...llamaConfig, tie_word_embeddings: true });
    const head = 61 * 16 - 4 * (61 + 16);
    expect(flops(llama) - flops(economical({ lowRank: [{ match: '*embed*', rank: 4 }] }, llama))).toBe(6 * head);
  });
});

describe('config.json', () => {
  const economy = {
    ties: [{ match: 'model.layers.{1,2}.self_attn.*' }, { match: '*.shared_experts.*', neighbours: 2, share: 0.5 }],
    lowRank: [{ match: '*.gate.weight', rank: 2 }],
  };
  it('keeps it', () => {
    const model = economical({ ...economy, lowRank: [{ match: 'model.layers.0.mlp.*', share: 0.5 }] });
    const again = modelFromConfig(JSON.parse(JSON.stringify(model.toHuggingFace())));
    expect([...parametersOf(again)]).toEqual([...parametersOf(model)]);
    expect(again.toHuggingFace()).toEqual(model.toHuggingFace());
  });
  it('is added to, each rule once', () => {
    const first = economical({ ties: [{ match: 'model.layers.{1,2}.self_attn.*' }] });
    const both = economical(
      {
        ties: [{ match: 'model.layers.{1,2}.self_attn.*' }],
        lowRank: [{ match: '*.0.mlp.down_proj.weight', rank: 2 }],
      },
      first,
    );
    expect(both.economy?.ties).toHaveLength(1);
    expect(sizes(first) - sizes(both)).toBe(24 * 40 - 2 * (24 + 40));
  });
  it('is refused field by field', () => {
    const given = (hadal: unknown) => () => modelFromConfig({ ...tinyConfig, hadal });
    expectHadalError(given(3), 'HADAL_ERR_CONFIG', /'hadal' expected an object, got 3/);
    expectHadalError(given({ tie: [] }), 'HADAL_ERR_CONFIG', /hadal.*tie/);
    expectHadalError(given({ low_rank: [{ match: '*', rank: 0 }] }), 'HADAL_ERR_CONFIG', /low_rank\.0\.rank.*got 0/);
    expectHadalError(
      given({ low_rank: [{ match: '*', rank: 1, share: 0.5 }] }),
      'HADAL_ERR_CONFIG',
      /either rank or share/,
    );
  });
});

describe('is refused', () => {
  const refused: [string, Partial<Economy>, RegExp][] = [
    [
      'a pattern that fits nothing',
      { ties: [{ match: 'model.layers.*.self_atn.o_proj.weight' }] },
      /ties.*fits none; did you mean 'model\.layers\.\d\.self_attn\.o_proj\.weight'/,
    ],
    ['another one', { lowRank: [{ match: 'lm_haed.weight', rank: 2 }] }, /lowRank.*did you mean 'lm_head\.weight'/],
    [
      'what is in no layer',
      { ties: [{ match: '*' }] },
      /names of layers' weights for '\*', got 'model\.embed_tokens\.weight'/,
    ],
    ['one layer alone', { ties: [{ match: 'model.layers.1.*' }] }, /two layers or more.*layer 1 alone/],
    [
      'layers that are not alike',
      { ties: [{ match: 'model.layers.{0,1}.mlp.*' }] },
      /'model\.layers\.\*\.mlp\..*' in layer \d and none in layer \d/,
    ],
    [
      'a weight that is tied twice',
      { ties: [{ match: 'model.layers.{1,2}.*' }, { match: 'model.layers.{2,3}.self_attn.*' }] },
      /tied once, got 'model\.layers\.2\.self_attn.*' twice/,
    ],
    [
      'a share without a row',
      { ties: [{ match: 'model.layers.{1,2}.self_attn.q_a_proj.weight', share: 0.01 }] },
      /not all, of 12 rows/,
    ],
    ['vectors of low rank', { lowRank: [{ match: '*norm*', rank: 1 }] }, /name of a matrix.*vectors alone/],
    [
      'a rank that saves nothing',
      { lowRank: [{ match: 'lm_head.weight', rank: 18 }] },
      /rank of at most 17 for 'lm_head\.weight' of shape \[61, 24\].*got 18/,
    ],
    [
      'a weight that is factorised twice',
      {
        lowRank: [
          { match: 'lm_head.weight', rank: 3 },
          { match: 'lm*', rank: 4 },
        ],
      },
      /factorised once, got 'lm_head\.weight' twice/,
    ],
    [
      'low rank of shared rows',
      {
        ties: [{ match: 'model.layers.{1,2}.*.o_proj.weight', share: 0.5 }],
        lowRank: [{ match: '*.o_proj.weight', rank: 2 }],
      },
      /all shared or all its own/,
    ],
  ];
  it.each(refused)('%s', (_, economy, message) => {
    expectHadalError(() => economical(economy), 'HADAL_ERR_CONFIG', message);
  });
  it('weights of different shapes under one name', () => {
    const model: Model = {
      ...plain,
      forward: (scope, inputs) => {
        scope.child('extra.0').parameter('weight', [2, 3], { kind: 'zeros' });
        scope.child('extra.1').parameter('weight', [3, 3], { kind: 'zeros' });
        return plain.forward(scope, inputs);
      },
    };
    expectHadalError(
      () => economical({ ties: [{ match: 'extra.*' }] }, model),
      'HADAL_ERR_CONFIG',
      /'extra\.1\.weight' of shape \[2, 3\], as 'extra\.0\.weight', got \[3, 3\]/,
    );
  });
});

/** left · right of each matrix, float64. */
function products(
  left: ArrayLike<number> = [],
  right: ArrayLike<number> = [],
  rows: number,
  rank: number,
  columns: number,
): Float64Array {
  const count = left.length / (rows * rank);
  const made = new Float64Array(count * rows * columns);
  for (let e = 0; e < count; e++)
    for (let m = 0; m < rows; m++)
      for (let n = 0; n < columns; n++)
        for (let r = 0; r < rank; r++)
          made[(e * rows + m) * columns + n] =
            (made[(e * rows + m) * columns + n] as number) +
            (left[(e * rows + m) * rank + r] as number) * (right[(e * rank + r) * columns + n] as number);
  return made;
}

/** By W = L·R: dL = dW·Rᵀ, dR = Lᵀ·dW. */
function factorGradient(
  isLeft: boolean,
  dw: ArrayLike<number> = [],
  left: ArrayLike<number> = [],
  right: ArrayLike<number> = [],
  { shape, rank }: { shape: readonly number[]; rank: number },
): Float64Array {
  const [rows, columns] = shape.slice(-2) as [number, number];
  const made = new Float64Array((isLeft ? left : right).length);
  for (let i = 0; i < dw.length; i++) {
    const [e, m, n] = [Math.floor(i / (rows * columns)), Math.floor(i / columns) % rows, i % columns];
    for (let r = 0; r < rank; r++) {
      const [l, t] = [(e * rows + m) * rank + r, (e * rank + r) * columns + n];
      const [target, factor] = isLeft ? [l, right[t]] : [t, left[l]];
      made[target] = (made[target] as number) + (dw[i] as number) * (factor as number);
    }
  }
  return made;
}
