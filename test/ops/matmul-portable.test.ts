// The blocked product, which serves where oneDNN is missing: the same cases with oneDNN switched off.
import { expect, it } from 'vitest';
import { loadAddon } from '../../src/addon/addon.js';
import { describeOp } from '../support/op-case.js';
import { cases } from './matmul.cases.js';

process.env.HADAL_NO_ONEDNN = '1'; // read when the first product runs

describeOp('matmul without oneDNN', cases, ['cpu']);

it('says that oneDNN is off', () => {
  expect(loadAddon().features().onednn).toMatch(/switched off|not part of this build/);
});
