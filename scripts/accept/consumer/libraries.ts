// The binary and all that it needs came with the package.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { loadModel } from 'hadal';

using model = await loadModel(process.argv[2] ?? '');
await model.forward([[1, 2, 3]]);
const maps = readFileSync('/proc/self/maps', 'utf8');
const files = new Set(maps.match(/\/\S*\/(?:hadal\S*\.node|lib(?:dnnl|gomp|OpenCL)\S*)/g));
assert.equal(files.size, 4, [...files].join());
for (const file of files) assert.match(file, /^\/project\/node_modules\/hadal\/prebuilds\//);
console.log([...files].map((file) => file.slice(file.lastIndexOf('/') + 1)).join(', '));
