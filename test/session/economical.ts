// Golden models whose weights are shared and factorised in every way.
import { withEconomy } from '../../src/models/economy.js';
import type { Economy } from '../../src/models/economy-config.js';
import { parametersOf } from '../../src/models/model.js';
import { openDevice } from '../../src/runtime/device.js';
import type { Tensor } from '../../src/runtime/tensor.js';
import { loadParameters, openModelSource } from '../../src/session/model-source.js';
import { Session } from '../../src/session/session.js';
import { goldenDir } from '../goldens/golden.js';

export const economies: Record<string, Partial<Economy>> = {
  deepseek_v3: {
    ties: [{ match: 'model.layers.{1,2}.self_attn.*' }, { match: 'model.layers.{1,2}.mlp.experts.*', share: 0.5 }],
    lowRank: [
      { match: 'model.layers.*.mlp.shared_experts.*', rank: 4 },
      { match: '*.kv_b_proj.weight', rank: 3 },
    ],
  },
  deepseek_v3_mtp: {
    ties: [{ match: 'model.layers.*.self_attn.kv_b_proj.weight' }],
    lowRank: [{ match: '{lm_head.weight,*.mlp.experts.*}', rank: 4 }],
  },
  llama: {
    ties: [{ match: 'model.layers.*.mlp.*', share: 0.25 }],
    lowRank: [
      { match: '*.{q_proj,o_proj}.weight', rank: 5 },
      { match: '*embed*', share: 0.7 },
    ],
  },
  gpt2: { ties: [{ match: 'transformer.h.*.attn.*' }], lowRank: [{ match: '*.{c_fc,c_attn}.weight', rank: 6 }] },
};

/** A golden model, its weights shared and factorised. */
export async function economical(name: string, economy: Partial<Economy> = economies[name] as Partial<Economy>) {
  const source = await openModelSource(goldenDir(name));
  const model = withEconomy(source.model, { ties: [], lowRank: [], ...economy });
  const device = openDevice('cpu', { threads: 2 });
  const tensors = new Map<string, Tensor>();
  for (const { name, shape, dtype } of parametersOf(model).values()) tensors.set(name, device.allocate(shape, dtype));
  const notes = await loadParameters(source, tensors, model);
  return { session: new Session({ model, tensors, device, tokenizer: null }, { owns: true }), notes };
}
