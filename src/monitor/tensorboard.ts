// TensorBoard's event files: TFRecord frames around Event messages, written by hand.
// https://github.com/tensorflow/tensorboard/blob/master/tensorboard/compat/proto/event.proto
import { closeSync, fstatSync, ftruncateSync, mkdirSync, openSync, readdirSync, readSync, writeSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { crc32c } from '../core/crc32c.js';
import { HadalError } from '../core/errors.js';
import { isOutOfSpace } from '../core/out-of-space.js';
import type { TrainListener } from './lines.js';

/** Options of {@link TensorboardWriter.open}. */
export interface TensorboardOptions {
  /** Continue the directory's newest file: what it holds of later steps is cut off. Otherwise a new file is begun. */
  resumeStep?: number;
  /** Seconds since 1970, for the file's name and first record. */
  wallTime?: number;
}

const prefix = 'events.out.tfevents.';
const bufferBytes = 1 << 16;

/** Writes scalars into a directory that TensorBoard reads. */
export class TensorboardWriter implements Disposable {
  #fd: number | null;
  #buffer: Uint8Array[] = [];
  #buffered = 0;

  private constructor(
    fd: number,
    readonly path: string,
  ) {
    this.#fd = fd;
  }

  /** Begins a file, or goes on with one. @throws HadalError HADAL_ERR_IO when the machine refuses */
  static open(dir: string, options: TensorboardOptions = {}): TensorboardWriter {
    return refusing(`write TensorBoard events in ${dir}`, () => {
      mkdirSync(dir, { recursive: true });
      const { resumeStep, wallTime = Date.now() / 1000 } = options;
      const fresh = `${prefix}${String(Math.floor(wallTime)).padStart(10, '0')}.${hostname()}.${process.pid}`;
      const earlier =
        resumeStep === undefined
          ? []
          : readdirSync(dir)
              .filter((name) => name.startsWith(prefix))
              .sort();
      for (const name of earlier) cutAfter(join(dir, name), resumeStep ?? 0);
      const path = join(dir, earlier.at(-1) ?? fresh);
      const fd = openSync(path, 'a');
      const writer = new TensorboardWriter(fd, path);
      if (fstatSync(fd).size === 0) writer.#add(message([doubleField(1, wallTime), textField(3, 'brain.Event:2')]));
      return writer;
    });
  }

  /** Adds a number. @param wallTime - seconds since 1970 */
  scalar(step: number, tag: string, value: number, wallTime = Date.now() / 1000): void {
    const summary = message([bytesField(1, message([textField(1, tag), floatField(2, value)]))]);
    this.#add(message([doubleField(1, wallTime), varintField(2, step), bytesField(5, summary)]));
    if (this.#buffered >= bufferBytes) this.flush();
  }

  /** Hands what is buffered to the system; what a full disk refuses stays for the next time. @throws HadalError HADAL_ERR_IO */
  flush(): void {
    const fd = this.#fd;
    if (fd === null || this.#buffered === 0) return;
    let bytes = message(this.#buffer);
    refusing(`write ${this.path}`, () => {
      try {
        while (bytes.length > 0) bytes = bytes.subarray(writeSync(fd, bytes));
      } catch (error) {
        if (!isOutOfSpace(error)) throw error;
      } finally {
        this.#buffer = [bytes];
        this.#buffered = bytes.length;
      }
    });
  }

  /** Flushes and closes; further numbers are dropped. */
  close(): void {
    if (this.#fd === null) return;
    try {
      this.flush();
      if (this.#buffered > 0) process.emitWarning(`the disk of ${this.path} is full: its last numbers are lost`);
    } finally {
      closeSync(this.#fd);
      this.#fd = null;
    }
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #add(event: Uint8Array): void {
    if (this.#fd === null) return;
    const record = frame(event);
    this.#buffer.push(record);
    this.#buffered += record.length;
  }
}

/** Writes a run's numbers into its directory; on resuming, what is beyond the step gone on from is cut off. */
export function tensorboardListener(): { listen: TrainListener } & Disposable {
  let writer: TensorboardWriter | null = null;
  let dir = '';
  const openAt = (resumeStep: number): void => {
    writer?.close();
    writer = TensorboardWriter.open(dir, { resumeStep });
  };
  const listen: TrainListener = (event) => {
    const add = (tag: string, value: number | null): void => {
      if ('step' in event && value !== null) writer?.scalar(event.step, tag, value);
    };
    switch (event.type) {
      case 'start':
        dir = event.runDir;
        openAt(event.step);
        break;
      case 'rollback':
        openAt(event.step);
        break;
      case 'step':
        add('train/loss', event.loss);
        add('train/mtp_loss', event.mtpLoss);
        add('train/balance_loss', event.balanceLoss);
        add('train/lr', event.lr);
        add('train/grad_norm', event.gradNorm);
        add('train/clipped_norm', event.clippedNorm);
        add('train/loss_scale', event.lossScale);
        add('train/expert_imbalance', event.expertImbalance);
        add('train/loss_variance', event.lossVariance);
        add('train/activation_range', event.activationRange);
        add('train/zeros_share', event.zerosShare);
        add('speed/tokens_per_second', event.tokensPerSecond);
        add('speed/step_ms', event.stepMs);
        if (event.world) {
          add('world/size', event.world.size);
          add('world/communication_ms', event.world.communicationMs);
          add('world/exposed_ms', event.world.exposedMs);
          add('world/comm_share', event.world.commShare);
          add('world/wire_bytes_sent', event.world.wireBytesSent);
          add('world/compression_ms', event.world.compressionMs);
          add('world/compression_error', event.world.compressionError);
        }
        break;
      case 'evaluation':
        add('eval/loss', event.evalLoss);
        add('eval/ema_loss', event.emaEvalLoss ?? null);
        add('eval/bits_per_byte', event.bitsPerByte);
        writer?.flush();
        break;
      case 'checkpoint':
        writer?.flush();
        break;
      case 'end':
        writer?.close();
        break;
      default:
    }
  };
  return { listen, [Symbol.dispose]: () => writer?.close() };
}

/** TFRecord: length, masked checksum of the length, data, masked checksum of the data. */
function frame(data: Uint8Array): Uint8Array {
  const record = new Uint8Array(data.length + 16);
  const view = new DataView(record.buffer);
  view.setBigUint64(0, BigInt(data.length), true);
  view.setUint32(8, maskedChecksum(record.subarray(0, 8)), true);
  record.set(data, 12);
  view.setUint32(12 + data.length, maskedChecksum(data), true);
  return record;
}

/** Masked, because a checksum of data that holds checksums is weak. */
function maskedChecksum(data: Uint8Array): number {
  const crc = crc32c(data);
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

/** Truncates a file before its first record that is damaged or belongs to a later step. */
function cutAfter(path: string, lastStep: number): void {
  const fd = openSync(path, 'r+');
  try {
    const size = fstatSync(fd).size;
    let at = 0;
    while (at < size) {
      const data = recordAt(fd, at, size);
      if (!data || stepOf(data) > lastStep) break;
      at += data.length + 16;
    }
    if (at < size) ftruncateSync(fd, at);
  } finally {
    closeSync(fd);
  }
}

/** The record's data, or null where no whole one lies. */
function recordAt(fd: number, at: number, size: number): Uint8Array | null {
  const head = new Uint8Array(12);
  if (at + 16 > size || readSync(fd, head, 0, 12, at) < 12) return null;
  const view = new DataView(head.buffer);
  const length = Number(view.getBigUint64(0, true));
  if (view.getUint32(8, true) !== maskedChecksum(head.subarray(0, 8)) || at + 16 + length > size) return null;
  const body = new Uint8Array(length + 4);
  if (readSync(fd, body, 0, length + 4, at + 12) < length + 4) return null;
  const data = body.subarray(0, length);
  return new DataView(body.buffer).getUint32(length, true) === maskedChecksum(data) ? data : null;
}

/** Field 2 of an Event; 0 where it is not written. Fields come in the order of their numbers. */
function stepOf(event: Uint8Array): number {
  let at = event[0] === 0x09 ? 9 : 0; // wall_time, a double
  if (event[at++] !== 0x10) return 0;
  let step = 0;
  for (let scale = 1; at < event.length; scale *= 128, at++) {
    const byte = event[at] as number;
    step += (byte & 0x7f) * scale;
    if (byte < 0x80) break;
  }
  return step;
}

/** Fields one after the other. */
function message(parts: readonly Uint8Array[]): Uint8Array {
  return Buffer.concat(parts);
}

/** @param value - a natural number below 2^53 */
function varint(value: number): number[] {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 0x80);
  return [...bytes, rest];
}

const tagOf = (field: number, wireType: number): number[] => varint(field * 8 + wireType);

function varintField(field: number, value: number): Uint8Array {
  return Uint8Array.from([...tagOf(field, 0), ...varint(value)]);
}

function doubleField(field: number, value: number): Uint8Array {
  return message([Uint8Array.from(tagOf(field, 1)), new Uint8Array(Float64Array.of(value).buffer)]);
}

function bytesField(field: number, bytes: Uint8Array): Uint8Array {
  return message([Uint8Array.from([...tagOf(field, 2), ...varint(bytes.length)]), bytes]);
}

function textField(field: number, text: string): Uint8Array {
  return bytesField(field, new TextEncoder().encode(text));
}

function floatField(field: number, value: number): Uint8Array {
  return message([Uint8Array.from(tagOf(field, 5)), new Uint8Array(Float32Array.of(value).buffer)]);
}

function refusing<T>(doing: string, run: () => T): T {
  try {
    return run();
  } catch (error) {
    const { code, message: found } = error as NodeJS.ErrnoException;
    throw new HadalError(
      'HADAL_ERR_IO',
      `[tensorboard] expected to ${doing}, got ${code ?? found}; check space and permissions`,
      {
        cause: error,
      },
    );
  }
}
