import { expect, it } from 'vitest';
import { Graph } from '../../src/graph/graph.js';
import { modelFromConfig } from '../../src/models/families.js';
import { ParameterScope } from '../../src/nn/parameters.js';
import { deepseekV2Lite, deepseekV3 } from '../models/published-configs.js';

/** Numbers that the caches hold for a token, by layer. */
function cachedNumbers(config: Record<string, unknown>, form: 'latent' | 'expanded'): number[] {
  const [rows, tokens, capacity] = [2, 1, 1024];
  const graph = new Graph();
  const ids = (name: string) => graph.input(name, [rows, tokens], 'int32');
  const counts = (name: string) => graph.input(name, [rows], 'int32');
  modelFromConfig(config).forward(new ParameterScope(graph, new Map(), '', 'bf16'), {
    tokens: ids('tokens'),
    positions: ids('positions'),
    docIds: ids('docIds'),
    mtpTokens: [],
    cache: { start: counts('start'), counts: counts('counts'), capacity, form, isEmpty: false },
    dropoutKey: null,
  });
  const layers = new Map<string, number>();
  for (const [name, { size }] of graph.slots) {
    const layer = /^cache\/(.*\.layers\.\d+)\./.exec(name)?.[1];
    if (layer) layers.set(layer, (layers.get(layer) ?? 0) + size / (rows * capacity));
  }
  return [...layers.values()];
}

it('DeepSeek-V3 keeps 576 numbers a token a layer, where keys and values of all heads would be 40,960', () => {
  expect(cachedNumbers(deepseekV3, 'latent')).toEqual(new Array(61).fill(576));
  expect(cachedNumbers(deepseekV3, 'expanded')).toEqual(new Array(61).fill(128 * (192 + 128)));
});

it('DeepSeek-V2-Lite keeps 576 too', () => {
  expect(cachedNumbers(deepseekV2Lite, 'latent')).toEqual(new Array(27).fill(576));
});
