// Gates what the prebuilt binaries ask of a system: of every file the exact libraries it needs, the newest version of
// the system's libraries, and that the libraries which come along are the ones that are loaded. Prints all of it.
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readdirSync, statSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));

/** What a system has that runs Node: these do not come along. */
export const systemLibraries = [
  'ld-linux-aarch64.so.1',
  'ld-linux-x86-64.so.2',
  'libc.so.6',
  'libgcc_s.so.1',
  'libm.so.6',
  'libstdc++.so.6',
];

/** Versions of those that may be asked for: glibc 2.34 and the libraries of GCC 11, as in RHEL 9 and Ubuntu 22.04. */
const floor = { GLIBC: '2.34', GLIBCXX: '3.4.29', CXXABI: '1.3.13', GCC: '4.3.0' };

/** Beyond that, of libraries that are opened when they are first used: Debian's Gloo is of GCC 12, as in Ubuntu 22.04. */
const floorOf = { 'libgloo.so.0': { ...floor, GLIBCXX: '3.4.30' } };

const cLibraries = ['ld-linux-x86-64.so.2', 'libc.so.6'];
const cppLibraries = [...cLibraries, 'libgcc_s.so.1', 'libm.so.6', 'libstdc++.so.6'];
/** Files of each platform, and the libraries that each needs. */
const expected = {
  'linux-x64': {
    'hadal.glibc.node': [...cppLibraries, 'libdnnl.so.2', 'libgomp.so.1'],
    'hadal-gloo.so': ['libc.so.6', 'libgcc_s.so.1', 'libgloo.so.0', 'libstdc++.so.6'],
    'libOpenCL.so.1': cLibraries,
    'libdnnl.so.2': [...cppLibraries, 'libOpenCL.so.1', 'libgomp.so.1'],
    'libgloo.so.0': [
      'ld-linux-x86-64.so.2',
      'libc.so.6',
      'libgcc_s.so.1',
      'libhiredis.so.0.14',
      'libibverbs.so.1',
      'libstdc++.so.6',
    ],
    'libgomp.so.1': ['libc.so.6'],
    'libhiredis.so.0.14': ['libc.so.6'],
    'libibverbs.so.1': ['libc.so.6', 'libnl-3.so.200', 'libnl-route-3.so.200'],
    'libnl-3.so.200': ['libc.so.6'],
    'libnl-route-3.so.200': ['libc.so.6', 'libnl-3.so.200'],
  },
  'linux-arm64': {
    'hadal.glibc.node': ['libc.so.6', 'libgcc_s.so.1', 'libgomp.so.1', 'libm.so.6', 'libstdc++.so.6'],
    'libgomp.so.1': ['libc.so.6'],
  },
};

/** Libraries that come along on some platform. */
export const bundledNames = [...new Set(Object.values(expected).flatMap((files) => Object.keys(files)))].filter(
  (name) => name.startsWith('lib'),
);

const readelf = (file, ...options) => execFileSync('readelf', ['--wide', ...options, file], { encoding: 'utf8' });

/** Libraries that a file needs, by name. */
export function librariesOf(file) {
  return [...readelf(file, '--dynamic').matchAll(/\(NEEDED\).*\[(.+)\]/g)].map(([, name = '']) => name).sort();
}

const compareVersions = (a, b) => a.localeCompare(b, 'en', { numeric: true });

/** The newest version that a file asks for of each family of the system's libraries, such as GLIBC. */
function versionsOf(file) {
  const newest = {};
  let library = '';
  const needs = readelf(file, '--version-info').split(/^Version needs section/m)[1] ?? '';
  for (const [, from, family = '', version = ''] of needs.matchAll(/File: (\S+)|Name: ([A-Z]+)_(\S+)/g)) {
    if (from !== undefined) library = from;
    else if (!systemLibraries.includes(library)) continue;
    else if (newest[family] === undefined || compareVersions(version, newest[family]) > 0) newest[family] = version;
  }
  return newest;
}

const list = (names) => [...names].sort().join(' ') || '(none)';

/** What is wrong with the files of a platform; prints what it finds. */
function checkPlatform(platform) {
  const folder = path.join(root, 'prebuilds', platform);
  const wanted = expected[platform];
  if (wanted === undefined) return [`${platform}: expected one of ${list(Object.keys(expected))}`];
  const wrong = [];
  const files = readdirSync(folder, { withFileTypes: true }).filter((entry) => entry.isFile());
  const names = files.map(({ name }) => name);
  if (list(names) !== list(Object.keys(wanted))) {
    wrong.push(`${platform}: expected the files ${list(Object.keys(wanted))}, found ${list(names)}`);
  }
  console.log(`\nprebuilds/${platform}`);
  for (const name of names.sort()) {
    const file = path.join(folder, name);
    const [needed, versions] = [librariesOf(file), versionsOf(file)];
    const asked = Object.entries(versions).map((pair) => pair.join(' '));
    console.log(
      `  ${name.padEnd(18)}${(statSync(file).size / 2 ** 20).toFixed(2).padStart(7)} MiB  ${asked.join(', ')}`,
    );
    console.log(`  ${' '.repeat(30)}needs ${list(needed)}`);
    const allowed = wanted[name] ?? needed;
    if (list(needed) !== list(allowed)) wrong.push(`${name}: expected to need ${list(allowed)}; needs ${list(needed)}`);
    for (const [family, version] of Object.entries(versions)) {
      const most = (floorOf[name] ?? floor)[family];
      if (compareVersions(version, most ?? '0') > 0) {
        wrong.push(`${name}: expected ${family} up to ${most ?? '(none)'}, asks for ${version}`);
      }
    }
  }
  const paths = readelf(path.join(folder, 'hadal.glibc.node'), '--dynamic').match(/\((?:RPATH|RUNPATH)\).*/g) ?? [];
  if (paths.length !== 1 || !/^\(RPATH\).*\[\$ORIGIN\]/.test(paths[0])) {
    wrong.push(`hadal.glibc.node: expected RPATH $ORIGIN and no RUNPATH, found ${list(paths)}`);
  }
  if (platform === `${process.platform}-${process.arch}`) wrong.push(...checkLoading(folder, Object.keys(wanted)));
  return wrong;
}

/** Loads the binary and asks the dynamic linker where everything came from. */
function checkLoading(folder, files) {
  const addon = path.join(folder, 'hadal.glibc.node');
  const opensGloo = files.includes('hadal-gloo.so');
  const script = `const addon = require(${JSON.stringify(addon)});
    if (${opensGloo}) new addon.ProcessGroup({ backend: 'gloo', rank: 0, size: 2, timeoutMs: 1000 }).dispose();
    console.log(JSON.stringify(addon.features()));`;
  const { status, stdout, stderr } = spawnSync(process.execPath, ['-e', script], {
    encoding: 'utf8',
    env: { ...process.env, LD_DEBUG: 'libs', LD_LIBRARY_PATH: '' },
    maxBuffer: 1 << 28,
  });
  if (status !== 0)
    return [`the binary does not load: ${stderr.split('\n').findLast((line) => line.includes('Error'))}`];
  console.log(`  loads: ${stdout.trim()}`);
  const loaded = [...stderr.matchAll(/calling init: (.+)$/gm)].map(([, file = '']) => file);
  const strays = files.filter((name) => !loaded.includes(path.join(folder, name)));
  return strays.map((name) => {
    const from = loaded.filter((file) => path.basename(file) === name);
    return `${name}: expected to be loaded from ${folder}, was loaded from ${list(from)}`;
  });
}

/** The size of the package as npm packs it. */
function packageSize() {
  const { stdout } = spawnSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  });
  const [{ size, unpackedSize, entryCount }] = JSON.parse(stdout);
  const inMiB = (bytes) => `${(bytes / 2 ** 20).toFixed(2)} MiB`;
  return `${inMiB(size)} packed, ${inMiB(unpackedSize)} unpacked, ${entryCount} files`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const folder = path.join(root, 'prebuilds');
  const platforms = existsSync(folder) ? readdirSync(folder) : [];
  if (platforms.length === 0) {
    console.log('skipped: there are no prebuilt binaries (npm run build:prebuilt makes them)');
  } else if (process.platform !== 'linux' || spawnSync('readelf', ['--version']).error) {
    console.log('skipped: needs readelf on Linux');
  } else {
    const wrong = platforms.flatMap(checkPlatform);
    console.log(
      `\nnewest versions allowed: ${Object.entries(floor)
        .map((pair) => pair.join(' '))
        .join(', ')}`,
    );
    console.log(`package: ${packageSize()}`);
    for (const line of wrong) console.error(`check-prebuild: ${line}`);
    if (wrong.length > 0) process.exitCode = 1;
  }
}
