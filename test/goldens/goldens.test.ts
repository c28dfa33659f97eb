// Logits, losses and the gradient of every parameter against transformers in float64.
import { afterAll, describe, expect, it } from 'vitest';
import { openSession } from '../../src/session/session.js';
import { relativeNorm } from '../support/compare.js';
import { type GoldenTensor, goldenDir, readGolden, rowsOf, tensorOf, withPrefix } from './golden.js';

/** ‖a − b‖ / ‖b‖ of a tensor; README.md says why this is fair to fp32. */
const bar = 1e-5;

const table: string[] = [];
afterAll(() => console.log(['case                     logits    loss      worst gradient', ...table].join('\n')));

function worstOf(
  actual: ReadonlyMap<string, { data: ArrayLike<number> }>,
  expected: ReadonlyMap<string, GoldenTensor>,
) {
  let worst = { name: 'none', error: 0 };
  for (const [name, { data }] of expected) {
    const error = relativeNorm(actual.get(name)?.data ?? [], data);
    if (!(error <= worst.error)) worst = { name, error };
  }
  return worst;
}

describe('goldens', () => {
  const cases = [
    'deepseek_v3',
    'deepseek_v3_no_q_lora',
    'deepseek_v3_half_rope',
    'deepseek_v3_yarn',
    'deepseek_v2',
    'deepseek_v2_group',
    'gpt2',
  ];
  for (const name of cases) {
    it(name, async () => {
      const golden = await readGolden(name);
      using session = await openSession(goldenDir(name), { device: 'cpu', threads: 2 });
      const ids = rowsOf(golden, 'input_ids');
      const { logits } = await session.forward(ids);
      const { loss, gradients } = await session.lossAndGradients(ids, rowsOf(golden, 'labels'));
      const expected = withPrefix(golden, 'grad.');
      const worst = worstOf(gradients, expected);
      const logitsError = relativeNorm(logits, tensorOf(golden, 'logits').data);
      const lossError = relativeNorm([loss], tensorOf(golden, 'loss').data);
      table.push(
        `${name.padEnd(24)} ${logitsError.toExponential(2)} ${lossError.toExponential(2)}  ${worst.error.toExponential(2)} ${worst.name}`,
      );
      expect([...gradients.keys()].sort()).toEqual([...expected.keys()].sort());
      expect(logitsError).toBeLessThan(bar);
      expect(lossError).toBeLessThan(bar);
      expect(worst.error, worst.name).toBeLessThan(bar);
    });
  }
});
