// What times of collectives and of compressions mean: bandwidths, and when a compression pays.
import { formatBytes } from '../core/format.js';
import { tableLines } from './output.js';

export const collectives = ['all-reduce', 'reduce-scatter', 'all-gather', 'all-to-all', 'broadcast'] as const;

export type Collective = (typeof collectives)[number];

/** A collective of one size, as rank 0 saw it. */
export interface CollectiveTime {
  collective: Collective;
  /** Of the whole: what a rank has before (reduce-scatter) or after (all-gather) it. */
  bytes: number;
  /** Median of a call. */
  ms: number;
  calls: number;
  /** Bytes that a rank sent a call, headers and all. */
  sentBytes: number;
}

/** Rounds of the wire that bytes make a rank; as nccl-tests define them (doc/PERFORMANCE.md). */
export function busFactor(collective: Collective, ranks: number): number {
  if (collective === 'broadcast') return 1;
  return ((collective === 'all-reduce' ? 2 : 1) * (ranks - 1)) / ranks;
}

/** GB/s of the data (what a caller sees), and of the wire (what the hardware does, whatever the number of ranks). */
export function bandwidths({ collective, bytes, ms }: CollectiveTime, ranks: number) {
  const algorithm = bytes / ms / 1e6;
  return { algorithmGbs: algorithm, busGbs: algorithm * busFactor(collective, ranks) };
}

/** The sum of a gradient over the ranks in one of the forms that it can be sent in. */
export interface CompressionTime {
  kind: string;
  /** Of the gradient in fp32. */
  bytes: number;
  /** Of the whole, here. */
  ms: number;
  /** Of that, what is not sending: making the form and reading it. */
  computeMs: number;
  /** Bytes that a rank sent, headers and all. */
  sentBytes: number;
  /** ‖result − sum‖ / ‖sum‖. */
  error: number;
}

/** What a compression does on a link. */
export interface LinkTime {
  kind: string;
  bytes: number;
  /** Of computing and then sending at the link's speed. */
  ms: number;
  /** Times as fast as fp32; below 1 it does not pay. */
  factor: number;
  /** Bits a second of the link below which it pays; null: on none, Infinity: on any. */
  paysBelow: number | null;
}

/**
 * What each compression of a size takes on a link of so many bits a second: the time of computing was measured, that of sending is
 * bytes over speed. One of `times` is of kind `none`.
 */
export function onLink(times: readonly CompressionTime[], link: number): LinkTime[] {
  const plain = times.find(({ kind }) => kind === 'none') as CompressionTime;
  const msOf = ({ computeMs, sentBytes }: CompressionTime) => computeMs + (8000 * sentBytes) / link;
  return times.map((time) => {
    const saved = plain.sentBytes - time.sentBytes;
    const cost = (time.computeMs - plain.computeMs) / 1000;
    const always = cost <= 0 ? Number.POSITIVE_INFINITY : (8 * saved) / cost;
    return {
      kind: time.kind,
      bytes: time.bytes,
      ms: msOf(time),
      factor: msOf(plain) / msOf(time),
      paysBelow: time.kind === 'none' || saved <= 0 ? null : always,
    };
  });
}

export interface CommReport {
  ranks: number;
  threads: number;
  collectives: CollectiveTime[];
  compressions: CompressionTime[];
  /** By size; empty without a link. */
  link: { bitsPerSecond: number; times: LinkTime[] } | null;
}

/** For people. */
export function commLines({ ranks, threads, collectives, compressions, link }: CommReport): string[] {
  return [
    `${ranks} processes of ${threads} thread${threads === 1 ? '' : 's'}; medians on rank 0`,
    ...(collectives.length > 0 ? ['', ...collectiveLines(collectives, ranks)] : []),
    ...(compressions.length > 0 ? ['', ...compressionLines(compressions)] : []),
    ...(link
      ? ['', `On a link of ${formatSpeed(link.bitsPerSecond)}, computing and sending:`, ...linkLines(link)]
      : []),
  ];
}

function collectiveLines(times: readonly CollectiveTime[], ranks: number): string[] {
  const rows = times.map((time) => {
    const { algorithmGbs, busGbs } = bandwidths(time, ranks);
    return [
      ...[time.collective, formatBytes(time.bytes), formatMs(time.ms), algorithmGbs.toPrecision(3)],
      ...[busGbs.toPrecision(3), formatBytes(time.sentBytes), `${time.calls}`],
    ];
  });
  return tableLines([['collective', 'size', 'time', 'GB/s', 'bus GB/s', 'sent', 'calls'], ...rows]);
}

function compressionLines(times: readonly CompressionTime[]): string[] {
  const rows = times.map(({ kind, bytes, ms, computeMs, sentBytes, error }) => [
    ...[kind, formatBytes(bytes), formatMs(ms), formatMs(computeMs), formatBytes(sentBytes)],
    error === 0 ? '0' : error.toExponential(1),
  ]);
  return tableLines([['compression', 'gradient', 'time', 'of it computing', 'sent', 'error'], ...rows]);
}

function linkLines({ times }: { times: readonly LinkTime[] }): string[] {
  const rows = times.map(({ kind, bytes, ms, factor, paysBelow }) => [
    ...[kind, formatBytes(bytes), formatMs(ms), `${factor.toFixed(2)}×`],
    kind === 'none' ? '' : paysBelow === null ? 'never' : formatSpeed(paysBelow),
  ]);
  return tableLines([['compression', 'gradient', 'time', 'as fast', 'pays below'], ...rows]);
}

const formatMs = (ms: number): string => `${ms >= 1000 ? ms.toFixed(0) : ms.toPrecision(3)} ms`;

function formatSpeed(bitsPerSecond: number): string {
  if (bitsPerSecond === Number.POSITIVE_INFINITY) return 'any speed';
  const giga = bitsPerSecond / 1e9;
  return giga >= 1 ? `${Number(giga.toPrecision(3))} Gbit/s` : `${Number((1000 * giga).toPrecision(3))} Mbit/s`;
}
