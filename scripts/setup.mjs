// Makes a checkout ready to run: npm packages, system libraries, native binary, compiled TypeScript; each only when it
// is missing or out of date. Uses nothing but Node, because nothing else may be there yet.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { buildNative, hasGloo, hashOf, hasOneDnn, isNativeCurrent, root } from './build-native.mjs';

const say = (line) => console.error(`setup: ${line}`);

/** Every package that the lock file demands is installed in its version. */
function arePackagesCurrent() {
  const installedList = path.join(root, 'node_modules', '.package-lock.json');
  if (!existsSync(installedList)) return false;
  const read = (file) => JSON.parse(readFileSync(file, 'utf8')).packages;
  const installed = read(installedList);
  return Object.entries(read(path.join(root, 'package-lock.json'))).every(
    ([name, { version, optional, devOptional, peer }]) =>
      name === '' || optional || devOptional || peer || installed[name]?.version === version,
  );
}

function installPackages() {
  say('installing npm packages (npm ci)');
  const args = ['ci', '--include=dev', '--no-audit', '--no-fund', '--loglevel=error'];
  const npm = process.env.npm_execpath;
  if (npm === undefined) run('npm', args, 'npm ci failed');
  else run(process.execPath, [npm, ...args], 'npm ci failed');
}

/** Debian packages that the native build lacks. */
function missingSystemPackages() {
  const inPath = (tool) =>
    (process.env.PATH ?? '').split(path.delimiter).some((folder) => existsSync(path.join(folder, tool)));
  const missing = [];
  if (!process.env.CXX && !inPath('c++')) missing.push('g++');
  if (!inPath('cmake')) missing.push('cmake');
  if (!inPath('make') && !inPath('ninja')) missing.push('make');
  if (!hasOneDnn()) missing.push('libdnnl-dev');
  if (process.platform === 'linux' && !hasGloo()) missing.push('libgloo-dev');
  return missing;
}

/** What it means to go without them. */
const optionalPackages = {
  'libdnnl-dev': 'oneDNN is missing, matrix products use the slower portable code',
  'libgloo-dev': 'Gloo is missing, training in several processes on CPUs is not possible',
};

function installSystemPackages() {
  const missing = missingSystemPackages();
  if (missing.length === 0) return;
  const command = `apt-get install -y --no-install-recommends ${missing.join(' ')}`;
  const mayInstall = process.getuid?.() === 0 && existsSync('/usr/bin/apt-get') && process.env.HADAL_NO_APT !== '1';
  if (mayInstall) {
    say(`installing ${missing.join(', ')} with apt-get (HADAL_NO_APT=1 switches this off)`);
    const apt = ['-qq', '-o', 'DPkg::Lock::Timeout=120', ...command.split(' ').slice(1)];
    const install = () => quietly('apt-get', apt);
    if (!install()) {
      quietly('apt-get', ['-qq', 'update']);
      install();
    }
  }
  for (const name of missingSystemPackages()) {
    const without = optionalPackages[name];
    if (without === undefined) throw new Error(`${name} is missing; run: sudo ${command}`);
    say(`${without}; to change that: sudo ${command}`);
  }
}

function isTypeScriptCurrent() {
  const stamp = path.join(root, 'dist', '.stamp');
  return existsSync(stamp) && readFileSync(stamp, 'utf8') === typeScriptState();
}

function typeScriptState() {
  return hashOf('src') + readFileSync(path.join(root, 'tsconfig.json'), 'utf8');
}

function compileTypeScript() {
  say('compiling TypeScript');
  const state = typeScriptState();
  removeStaleOutput();
  const tsc = path.join(root, 'node_modules', 'typescript', 'bin', 'tsc');
  run(process.execPath, [tsc, '-p', 'tsconfig.build.json'], 'TypeScript does not compile');
  writeFileSync(path.join(root, 'dist', '.stamp'), state);
}

/** Starts from nothing when a compiled file has outlived its source; tsc itself never deletes. */
function removeStaleOutput() {
  const dist = path.join(root, 'dist');
  if (!existsSync(dist)) return;
  const compiled = readdirSync(dist, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.js'));
  const isStale = (name) => !existsSync(path.join(root, 'src', name.replace(/\.js$/, '.ts')));
  if (compiled.some(isStale)) rmSync(dist, { recursive: true });
}

function quietly(command, args) {
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  return spawnSync(command, args, { stdio: 'ignore', env, timeout: 600_000 }).status === 0;
}

function run(command, args, failure) {
  // Everything goes to stderr: stdout belongs to the command that set-up runs for.
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: ['ignore', 2, 2] });
  if (status !== 0) throw new Error(`${failure}${error ? `: ${error.message}` : ' (its output is above)'}`);
}

/** Two set-ups at once would write the same files: the second waits for the first. */
function withLock(action) {
  const lock = path.join(root, 'build', 'setup.lock');
  mkdirSync(path.dirname(lock), { recursive: true });
  for (let announced = false; ; ) {
    try {
      writeFileSync(lock, String(process.pid), { flag: 'wx' });
      break;
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
    }
    const holder = readHolder(lock);
    if (holder === undefined) {
      rmSync(lock, { force: true });
      continue;
    }
    if (!announced) say(`waiting for process ${holder}, which sets up this folder`);
    announced = true;
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 300);
  }
  try {
    action();
  } finally {
    rmSync(lock, { force: true });
  }
}

/** The living process that holds the lock; undefined when it has died. */
function readHolder(lock) {
  try {
    const pid = Number(readFileSync(lock, 'utf8'));
    process.kill(pid, 0);
    return pid;
  } catch (error) {
    return error.code === 'EPERM' ? 'of another user' : undefined;
  }
}

function setUp() {
  if (!arePackagesCurrent()) installPackages();
  if (!isNativeCurrent()) {
    installSystemPackages();
    say('building the native code');
    buildNative();
  }
  if (!isTypeScriptCurrent()) compileTypeScript();
}

const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
try {
  if (major < 20 || (major === 20 && minor < 19)) {
    throw new Error(`expected Node 20.19 or newer, got ${process.versions.node}; see https://nodejs.org/en/download`);
  }
  if (!(arePackagesCurrent() && isNativeCurrent() && isTypeScriptCurrent())) withLock(setUp);
} catch (error) {
  say(error.message);
  process.exit(1);
}
