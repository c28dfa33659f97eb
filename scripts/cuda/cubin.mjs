// Reads what the gates ask of a cubin: of each kernel its registers, shared memory, stack, threads and instructions. A cubin
// is an ELF file whose sections are named after the kernels; instructions have 16 bytes since compute capability 7.0.

/**
 * @typedef {object} Kernel
 * @property {string} symbol
 * @property {number} registers a thread
 * @property {number} staticShared bytes a block
 * @property {number} stack bytes a thread, in local memory
 * @property {number} threads most of a block, as the kernel's launch bounds say; 0 where they do not
 * @property {Instruction[]} code
 */

/**
 * @typedef {object} Instruction
 * @property {bigint} low the first 8 bytes
 * @property {bigint} high the others
 */

/** Attributes of `.nv.info` sections: their numbers are NVIDIA's. */
const attributes = { maxThreads: 0x05, frameSize: 0x11, registerCount: 0x2f };
/** Forms of an attribute: without a value, with one of 1 or 2 bytes in place, with a length and as many bytes. */
const forms = { sized: 4 };

const sectionKinds = { symbols: 2 };

/** @param {Buffer} file @returns {Kernel[]} in the order of the file */
export function kernelsOf(file) {
  if (file.length < 64 || file.readUInt32BE(0) !== 0x7f454c46 || file[4] !== 2)
    throw new Error('[cubin] expected an ELF file of 64 bits');
  const sections = sectionsOf(file);
  const byName = new Map(sections.map((section) => [section.name, section]));
  const symbols = symbolNames(sections);
  const ofSymbol = (attribute) =>
    new Map(
      attributesOf(byName.get('.nv.info')?.bytes)
        .filter(({ number }) => number === attribute)
        .map(({ value }) => [symbols[value.readUInt32LE(0)], value.readUInt32LE(4)]),
    );
  const [registers, frames] = [ofSymbol(attributes.registerCount), ofSymbol(attributes.frameSize)];
  return sections
    .filter(({ name }) => name.startsWith('.text.'))
    .map(({ name, bytes }) => {
      const symbol = name.slice('.text.'.length);
      const count = registers.get(symbol);
      if (count === undefined) throw new Error(`[cubin] expected a number of registers of ${symbol}, got none`);
      return {
        symbol,
        registers: count,
        staticShared: byName.get(`.nv.shared.${symbol}`)?.size ?? 0,
        stack: frames.get(symbol) ?? 0,
        threads: threadsOf(byName.get(`.nv.info.${symbol}`)?.bytes),
        code: instructionsOf(bytes),
      };
    });
}

function sectionsOf(file) {
  const [table, entryBytes, count] = [Number(file.readBigUInt64LE(40)), file.readUInt16LE(58), file.readUInt16LE(60)];
  const raw = Array.from({ length: count }, (_, i) => {
    const at = table + i * entryBytes;
    const [offset, size] = [Number(file.readBigUInt64LE(at + 24)), Number(file.readBigUInt64LE(at + 32))];
    const kind = file.readUInt32LE(at + 4);
    // Shared memory takes no bytes of the file (kind 8).
    const bytes = kind === 8 ? Buffer.alloc(0) : file.subarray(offset, offset + size);
    return { nameAt: file.readUInt32LE(at), kind, size, link: file.readUInt32LE(at + 40), bytes };
  });
  const names = raw[file.readUInt16LE(62)]?.bytes ?? Buffer.alloc(0);
  return raw.map((section) => ({ ...section, name: stringAt(names, section.nameAt) }));
}

function symbolNames(sections) {
  const table = sections.find(({ kind }) => kind === sectionKinds.symbols);
  if (!table) throw new Error('[cubin] expected a table of symbols, got none');
  const names = sections[table.link].bytes;
  return Array.from({ length: table.size / 24 }, (_, i) => stringAt(names, table.bytes.readUInt32LE(i * 24)));
}

const stringAt = (bytes, start) => bytes.toString('latin1', start, bytes.indexOf(0, start));

/** @param {Buffer} [bytes] @returns {{ number: number, value: Buffer }[]} */
function attributesOf(bytes = Buffer.alloc(0)) {
  const found = [];
  for (let at = 0; at + 4 <= bytes.length; ) {
    const [form, number, size] = [bytes.readUInt8(at), bytes.readUInt8(at + 1), bytes.readUInt16LE(at + 2)];
    const length = form === forms.sized ? size : 0;
    found.push({ number, value: bytes.subarray(at + 4, at + 4 + length) });
    at += 4 + length;
  }
  return found;
}

function threadsOf(bytes) {
  const value = attributesOf(bytes).find(({ number }) => number === attributes.maxThreads)?.value;
  return value ? value.readUInt32LE(0) * value.readUInt32LE(4) * value.readUInt32LE(8) : 0;
}

const instructionsOf = (bytes) =>
  Array.from({ length: Math.floor(bytes.length / 16) }, (_, i) => ({
    low: bytes.readBigUInt64LE(i * 16),
    high: bytes.readBigUInt64LE(i * 16 + 8),
  }));
