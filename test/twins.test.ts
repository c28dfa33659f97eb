// One family, one name everywhere: an op with a kernel has its contract, its backend and its tests.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { loadAddon } from '../src/addon/addon.js';
import { definedOps } from '../src/ops/define-op.js';

const root = new URL('../', import.meta.url);
const at = (path: string) => new URL(path, root);

/** Backends declared complete, and how their files end. */
const backends = { cpu: 'cpp', cuda: 'cu' };

/** Modules of src/ops that are no family of their own. */
const helpers = ['define-op', 'sources', 'elementwise-expression', 'tensor-list'];
const modules = readdirSync(at('src/ops')).map((file) => file.replace(/\.ts$/, ''));
const families = modules.filter((name) => !helpers.includes(name));
for (const family of families) await import(at(`src/ops/${family}.ts`).href);

const kernels = Object.keys(loadAddon().kernels());
/** Whether the library of kernels for GPUs, as it is built for the simulated one, has a kernel. */
const isOnGpu = (kernel: string) => {
  try {
    loadAddon().workspaceBytes(kernel, new Uint8Array(), 1, 'cuda-sim');
    return true;
  } catch (error) {
    return !/no kernel/.test((error as Error).message);
  }
};
/** Kernels a family's contract declares. */
const declared = (family: string) =>
  [...readFileSync(at(`native/ops/${family}.h`), 'utf8').matchAll(/HADAL_CONTRACT\(\s*\w+,\s*"([\w-]+)"/g)].map(
    (match) => match[1] as string,
  );

describe('every family', () => {
  for (const family of families) {
    it(`${family} has its twins`, () => {
      const twins = [
        `native/ops/${family}.h`,
        ...Object.entries(backends).map(([backend, ending]) => `native/${backend}/${family}.${ending}`),
        `test/ops/${family}.cases.ts`,
        `test/ops/${family}.test.ts`,
      ];
      expect(twins.filter((path) => !existsSync(at(path)))).toEqual([]);
      expect(declared(family).length).toBeGreaterThan(0);
      expect(declared(family).filter((kernel) => !kernels.includes(kernel))).toEqual([]);
      if (loadAddon().backend('cuda-sim').isBuilt)
        expect(declared(family).filter((kernel) => !isOnGpu(kernel))).toEqual([]);
    });
  }

  it('has a module for every contract, and a contract for every backend file that declares kernels', () => {
    const names = (folder: string, ending: string) =>
      readdirSync(at(folder))
        .filter((file) => file.endsWith(ending))
        .map((file) => file.slice(0, -ending.length));
    expect(names('native/ops', '.h').filter((name) => !families.includes(name))).toEqual([]);
    for (const [backend, ending] of Object.entries(backends)) {
      const withKernels = names(`native/${backend}`, `.${ending}`).filter((name) =>
        /HADAL_KERNEL/.test(readFileSync(at(`native/${backend}/${name}.${ending}`), 'utf8')),
      );
      // A large family may have a file for each direction.
      const familyOf = (name: string) => families.find((family) => name === family || name === `${family}-backward`);
      expect(withKernels.filter((name) => !familyOf(name))).toEqual([]);
    }
  });
});

describe('every op', () => {
  it('with a kernel can be differentiated, by its rule or by its lowered form, or says that it cannot', () => {
    // The optimizer, what sums gradients, and what generation alone uses.
    const withoutGradient = [
      ...['adamw', 'all-gather', 'all-reduce', 'all-to-all', 'broadcast-from', 'cache-write'],
      ...['dequantize-blocks', 'ema', 'lion', 'lion-root', 'muon-momentum', 'muon-update', 'orthogonalize'],
      ...['pack-weights', 'packed-matmul', 'quantize-blocks', 'reduce-scatter', 'sgd', 'sgd-momentum', 'sum-blocks'],
      ...['top-k', 'top-k-sum'],
    ];
    const missing = [...definedOps().values()].filter(({ vjp, lower }) => !vjp && !lower).map(({ name }) => name);
    expect(missing.sort()).toEqual(withoutGradient);
  });

  it('that gradients are made of can itself be differentiated', () => {
    const backward = [...definedOps().values()].filter(({ name }) => name.endsWith('-backward'));
    expect(backward.length).toBeGreaterThan(5);
    for (const { name, lower, vjp } of backward) expect(Boolean(lower ?? vjp), name).toBe(true);
  });
});

it('every kernel of the binary is some op’s', () => {
  const sources = modules.map((name) => readFileSync(at(`src/ops/${name}.ts`), 'utf8')).join('\n');
  const unused = kernels.filter((kernel) => !sources.includes(`'${kernel}'`));
  expect(unused).toEqual([]);
});
