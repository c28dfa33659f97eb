// hadal from CommonJS, and the same hadal as an import in the same process.
import assert = require('node:assert/strict');
import hadal = require('hadal');

async function main(checkpoint: string): Promise<void> {
  const model = await hadal.loadModel(checkpoint);
  const { shape } = await model.forward([[1, 2, 3]]);
  model.dispose();
  assert.deepEqual(shape, [1, 3, 320]);
  const imported = await import('hadal');
  assert.equal(imported.loadModel, hadal.loadModel);
  assert.throws(() => require('hadal/dist/index.js'), { code: 'ERR_PACKAGE_PATH_NOT_EXPORTED' });
  console.log('require and import are one module');
}

main(process.argv[2] ?? '').catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
