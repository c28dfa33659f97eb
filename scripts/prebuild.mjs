// Makes what is published of the native code: prebuilds/<platform>-<processor>/ with the binary under the name that
// node-gyp-build looks for, the libraries that it needs and a system may lack, and the licences of both.
//
//   npm run build:prebuilt [-- --arch arm64]
//
// The build is the checkout's own (cmake-js); prebuildify names, strips and copies what lies in build-prebuild/.
import { execFileSync, spawnSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { promisify } from 'node:util';
import prebuildify from 'prebuildify';
import { buildFor, root, toolsFor } from './build-native.mjs';
import { librariesOf, systemLibraries } from './check-prebuild.mjs';

/** Libraries that a file needs, and those need, but for the system's: their paths by name. */
function bundledLibraries(file, cxx, found = new Map()) {
  for (const name of librariesOf(file)) {
    if (found.has(name) || systemLibraries.includes(name)) continue;
    const library = execFileSync(cxx, [`-print-file-name=${name}`], { encoding: 'utf8' }).trim();
    if (!path.isAbsolute(library)) throw new Error(`${path.basename(file)} needs ${name}, which ${cxx} does not find`);
    found.set(name, realpathSync(library));
    bundledLibraries(library, cxx, found);
  }
  return found;
}

/** Writes the licence of a system's library, where it came from and where its source is. */
function writeLibraryLicence(folder, name, file) {
  // Where /lib is a link to /usr/lib, packages may still name their files by it.
  const places = [file, file.replace(/^\/usr/, '')];
  const [owner = ''] = spawnSync('dpkg', ['-S', ...places], { encoding: 'utf8' }).stdout.split(': ');
  if (owner === '') throw new Error(`expected ${file} to be of a Debian package, found none`);
  const show = ['Package', 'Version', 'source:Package', 'source:Version'].map((field) => `\${${field}}`).join('|');
  const [line = ''] = execFileSync('dpkg-query', ['-W', `-f=${show}\n`, owner], { encoding: 'utf8' }).split('\n');
  const [binary = '', version, source, sourceVersion] = line.split('|');
  const text = readFileSync(path.join('/usr/share/doc', binary, 'copyright'), 'utf8');
  const origin =
    `${name} is the library of the Debian package ${binary} ${version}, without its symbol table, otherwise unchanged.\n` +
    `Source code: https://snapshot.debian.org/package/${source}/${sourceVersion}/\n`;
  writeFileSync(path.join(folder, `${name}.txt`), `${origin}\nLicence, as the package states it:\n\n${text}`);
  // The package's statement only names the common licences, by the place where Debian keeps them.
  for (const [, common = ''] of text.matchAll(/\/usr\/share\/common-licenses\/([\w.-]*\w)/g)) {
    copyFileSync(path.join('/usr/share/common-licenses', common), path.join(folder, `${common}.txt`));
  }
}

/** Writes the licence of an npm package whose headers are compiled in. */
function writeHeaderLicence(folder, name) {
  const source = path.dirname(createRequire(import.meta.url).resolve(`${name}/package.json`));
  const licence = readdirSync(source).find((file) => /^licen[cs]e/i.test(file));
  if (licence === undefined) throw new Error(`${name} has no licence file`);
  copyFileSync(path.join(source, licence), path.join(folder, `${name}.txt`));
}

async function prebuild(arch) {
  if (process.platform !== 'linux')
    throw new Error(`expected Linux, got ${process.platform}: others are not published`);
  const { cxx, strip } = toolsFor(arch);
  const staging = path.join(root, 'build-prebuild', `linux-${arch}`, 'staged');
  const release = path.join(staging, 'build', 'Release'); // where prebuildify looks
  const artifacts = path.join(staging, 'artifacts');
  const licences = path.join(artifacts, 'licenses');
  // What an earlier run left must not be published.
  for (const old of [path.join(root, 'prebuilds', `linux-${arch}`), staging]) {
    rmSync(old, { recursive: true, force: true });
  }
  for (const made of [release, licences]) mkdirSync(made, { recursive: true });

  const addon = buildFor(arch);
  copyFileSync(addon, path.join(release, 'hadal.node'));
  const libraries = bundledLibraries(addon, cxx);
  const gloo = path.join(path.dirname(addon), 'hadal-gloo.so');
  if (arch === process.arch) {
    if (!existsSync(gloo)) throw new Error('hadal-gloo.so was not built; run: sudo apt-get install libgloo-dev');
    copyFileSync(gloo, path.join(release, path.basename(gloo)));
    bundledLibraries(gloo, cxx, libraries);
  }
  for (const [name, file] of libraries) {
    // prebuildify strips and copies only names of this form.
    copyFileSync(file, path.join(/\.so(\.\d+)?$/.test(name) ? release : artifacts, name));
    writeLibraryLicence(licences, name, file);
  }
  for (const name of ['node-addon-api', 'node-api-headers']) writeHeaderLicence(licences, name);
  await promisify(prebuildify)({
    arch,
    artifacts,
    cwd: staging,
    libc: 'glibc',
    name: 'hadal',
    napi: true,
    nodeGyp: 'true', // in node-gyp's place: what it would build is built
    out: root,
    platform: 'linux',
    strip: true,
    stripBin: strip,
    tagLibc: true,
    targets: [{ runtime: 'node', target: process.versions.node }],
  });
}

const [option, arch = process.arch] = process.argv.slice(2);
try {
  if (option !== undefined && option !== '--arch') throw new Error(`expected --arch <processor>, got ${option}`);
  await prebuild(arch);
  const check = path.join(root, 'scripts', 'check-prebuild.mjs');
  process.exitCode = spawnSync(process.execPath, [check], { stdio: 'inherit' }).status ?? 1;
} catch (error) {
  console.error(`prebuild: ${error.message}`);
  process.exitCode = 1;
}
