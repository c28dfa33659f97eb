// Which folder of src/ may import which. A folder may also import what its imports may import, and core is open to
// all, so each row names only the nearest folders. src/index.ts is the public face and may import everything.
const arrows = {
  core: [],
  addon: [],
  graph: [],
  ops: ['graph'],
  autodiff: ['graph', 'ops'],
  passes: ['graph', 'ops'],
  runtime: ['passes', 'addon'],
  nn: ['ops'],
  models: ['nn'],
  optim: ['ops'],
  formats: ['addon'],
  data: ['formats', 'addon'],
  dist: ['runtime', 'addon'],
  selftest: ['runtime', 'formats', 'autodiff'],
  session: ['models', 'runtime', 'formats', 'autodiff', 'data', 'selftest'],
  train: ['session', 'optim', 'data', 'dist'],
  generate: ['session'],
  serve: ['session'],
  eval: ['session'],
  compress: ['session'],
  tune: ['session'],
  tfjs: ['session', 'runtime'],
};

/** The folder itself, and everything it may reach. */
function reachable(folder) {
  return [...new Set([folder, ...arrows[folder].flatMap(reachable)])];
}

const layers = Object.keys(arrows).map((folder) => ({
  name: `arrows-of-${folder}`,
  comment: `src/${folder} may import only: core, ${reachable(folder).join(', ')}.`,
  severity: 'error',
  from: { path: `^src/${folder}/` },
  to: { path: '^src/', pathNot: `^src/(core|${reachable(folder).join('|')})/` },
}));

module.exports = {
  forbidden: [
    ...layers,
    {
      name: 'arrows-of-monitor',
      comment: 'src/monitor listens to training: of the other folders it knows the event types alone.',
      severity: 'error',
      from: { path: '^src/monitor/' },
      to: { path: '^src/', pathNot: '^src/(core|monitor)/|^src/train/events\\.ts$' },
    },
    {
      name: 'only-known-folders',
      comment: 'Every folder of src/ has a row above.',
      severity: 'error',
      from: {
        path: '^src/',
        pathNot: `^src/(${[...Object.keys(arrows), 'monitor', 'cli'].join('|')})/|^src/index\\.ts$`,
      },
      to: {},
    },
    {
      name: 'cli-is-the-end',
      comment: 'Nothing but the command line imports the command line.',
      severity: 'error',
      from: { path: '^src/', pathNot: '^src/(cli/|index\\.ts$)' },
      to: { path: '^src/cli/' },
    },
    {
      name: 'no-cycles',
      severity: 'error',
      from: { path: '^src/' },
      to: { circular: true, viaOnly: { dependencyTypesNot: ['type-only'] } },
    },
    {
      name: 'resolvable',
      severity: 'error',
      from: { path: '^src/' },
      to: { couldNotResolve: true, pathNot: '^@tensorflow/tfjs' },
    },
    {
      name: 'no-development-packages',
      comment: 'What is shipped must run with the packages that are shipped.',
      severity: 'error',
      from: { path: '^src/' },
      to: { dependencyTypes: ['npm-dev'] },
    },
    {
      name: 'tfjs-stays-optional',
      comment: 'TensorFlow.js is an optional package: only its bridge may name it.',
      severity: 'error',
      from: { path: '^src/', pathNot: '^src/tfjs/' },
      to: { path: '@tensorflow/' },
    },
    {
      name: 'shipped-code-only',
      comment: 'src/ never reaches into tests, benches or scripts.',
      severity: 'error',
      from: { path: '^src/' },
      to: { path: '^(test|bench|scripts)/' },
    },
  ],
  options: {
    tsConfig: { fileName: 'tsconfig.json' },
    tsPreCompilationDeps: true,
    doNotFollow: { path: 'node_modules' },
    enhancedResolveOptions: { conditionNames: ['import', 'require', 'node', 'default'], exportsFields: ['exports'] },
  },
};
