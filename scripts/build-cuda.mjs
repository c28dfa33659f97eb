// Builds build/Release/hadal-cuda.so, the library with the kernels for GPUs, which a machine with a driver opens at run time:
// `npm run build:cuda`. Needs nvcc. Objects of kernels are those that scripts/check-cuda.mjs checks.
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, renameSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { compileAll, cudaSources } from './cuda/compile.mjs';
import { findToolkit, root } from './cuda/toolkit.mjs';

/** Host code of the library: that of the simulated GPU (CMakeLists.txt), without the simulator. */
function hostSources() {
  const below = (folder, without) =>
    readdirSync(path.join(root, folder))
      .filter((name) => name.endsWith('.cpp') && name !== without)
      .map((name) => path.join(folder, name));
  const list = /file\(GLOB cuda_core CONFIGURE_DEPENDS ([^)]*)\)/.exec(
    readFileSync(path.join(root, 'CMakeLists.txt'), 'utf8'),
  );
  const core = list?.[1]?.split(/\s+/).filter(Boolean) ?? [];
  return [...below('native/cuda', 'no-cuda.cpp'), ...below('native/comm'), ...core];
}

/** Runs a compiler; throws with what it said. */
function run(file, args) {
  const { status, error } = spawnSync(file, args, { cwd: root, stdio: ['ignore', 2, 2] });
  if (status !== 0)
    throw new Error(`${path.basename(file)} failed${error ? `: ${error.message}` : ' (its output is above)'}`);
}

/** @returns the library's path */
async function buildCuda() {
  const toolkit = findToolkit();
  if (toolkit === null) throw new Error('nvcc is not installed; it comes with the CUDA toolkit, 13.0 or newer');
  const { compiled, failures } = await compileAll(toolkit, cudaSources());
  if (failures.length > 0) throw new Error(failures.join('\n'));

  const cxx = process.env.CXX ?? 'c++';
  const work = path.join(root, 'build/cuda/host');
  mkdirSync(work, { recursive: true });
  const flags = [
    ...[
      '-std=gnu++20',
      '-O3',
      '-DNDEBUG',
      '-fPIC',
      '-fvisibility=hidden',
      '-fvisibility-inlines-hidden',
      '-Wall',
      '-Wextra',
    ],
    ...['-DHADAL_ISA=cuda', '-Inative', '-Inative/cuda/nvcc', '-isystem', toolkit.include],
    ...(process.arch === 'x64' ? ['-march=x86-64-v2'] : []),
  ];
  const objects = hostSources().map((source) => {
    const object = path.join(work, `${source.replaceAll(path.sep, '-')}.o`);
    run(cxx, [...flags, '-c', source, '-o', object]);
    return object;
  });

  const library = path.join(root, 'build/Release/hadal-cuda.so');
  mkdirSync(path.dirname(library), { recursive: true });
  run(cxx, [
    ...['-shared', '-o', `${library}.new`, ...compiled.map(({ object }) => object), ...objects],
    ...[`-L${toolkit.library}`, '-lcudart_static', '-lpthread', '-ldl', '-lrt'],
    // Never unloaded: threads of its may outlive what opened it. The runtime in it is nobody else's.
    ...['-Wl,-z,nodelete', '-Wl,--no-undefined', '-Wl,--exclude-libs,ALL', '-Wl,--gc-sections'],
  ]);
  renameSync(`${library}.new`, library);
  return library;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    console.log(path.relative(process.cwd(), await buildCuda()));
  } catch (error) {
    console.error(`build-cuda: ${error.message}`);
    process.exit(1);
  }
}
