// Guards the choice of instruction set at run time. An inline function or template instance that is not forced inline
// is emitted as a weak symbol by every object that uses it, and the linker keeps one copy for all. If that copy was
// compiled for a newer instruction set, the portable path dies on older machines, and no test here would see it.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const commands = path.join(root, 'build', 'compile_commands.json');

/** Object files by the instruction set they are compiled for; code that is compiled once counts as portable. */
function objectsByIsa() {
  const files = new Map();
  for (const { directory, command } of JSON.parse(readFileSync(commands, 'utf8'))) {
    const isa = / -DHADAL_ISA=(\w+) /.exec(command)?.[1] ?? 'portable';
    const object = / -o (\S+)/.exec(command)?.[1] ?? '';
    // Of the binary itself; what else is built is linked by itself.
    if (/CMakeFiles\/hadal(?:_cpu_\w+)?\.dir\//.test(object))
      files.set(isa, [...(files.get(isa) ?? []), path.join(directory, object)]);
  }
  return files;
}

/** Names of the weak and unique symbols that the objects define. */
function sharedSymbols(files) {
  const { status, stdout, stderr } = spawnSync('nm', ['--defined-only', '--demangle', '--format=posix', ...files], {
    encoding: 'utf8',
    maxBuffer: 1 << 30,
  });
  if (status !== 0) throw new Error(`nm failed: ${stderr}`);
  const lines = stdout.matchAll(/^(.+) [WVu] [0-9a-f]+ [0-9a-f]*$/gm);
  // DW.ref.* are the compiler's own pointers to libstdc++'s exception handler, the same in every object.
  return new Set([...lines].map(([, name = '']) => name).filter((name) => !name.startsWith('DW.ref.')));
}

if (process.platform !== 'linux' || spawnSync('nm', ['--version']).status !== 0) {
  console.log('skipped: needs nm on Linux');
} else if (!existsSync(commands)) {
  console.error('check-isa-symbols: build/ is empty; run `npm run build:native`');
  process.exitCode = 1;
} else {
  const owners = new Map();
  for (const [isa, files] of objectsByIsa()) {
    for (const name of sharedSymbols(files)) owners.set(name, [...(owners.get(name) ?? []), isa]);
  }
  const clashes = [...owners].filter(([, isas]) => isas.length > 1);
  for (const [name, isas] of clashes) console.error(`${name}  (${isas.join(', ')})`);
  if (clashes.length > 0) {
    console.error(
      `check-isa-symbols: ${clashes.length} symbols are compiled for several instruction sets and merged by the linker; ` +
        'in kernel files make them HADAL_INLINE, put them into namespace HADAL_ISA, or do without the std:: template',
    );
    process.exitCode = 1;
  }
}
