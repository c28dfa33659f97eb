// `node --import ./bench/support/typescript.mjs bench/<program>.ts`: TypeScript of bench/ is read as it stands; what it
// imports of src/ comes from dist/, where set-up has compiled it.
import { createRequire, register } from 'node:module';

const compiler = createRequire(import.meta.url).resolve('typescript');
register('../../dist/cli/typescript-hooks.js', import.meta.url, { data: compiler });
register('./resolve-hooks.mjs', import.meta.url);
