// Progress on a terminal: lines that stay, and below them two that are redrawn in place.
import { formatInteger } from '../core/format.js';
import type { StepEvent, TrainEvent } from '../train/events.js';
import { Eta, lastingLines, prepareLine, stepFields } from './lines.js';

/** What the display needs of a terminal (`process.stdout` is one). */
export interface Terminal {
  /** Width in characters; undefined where the terminal does not tell. */
  columns?: number | undefined;
  write(text: string): unknown;
}

const minRedrawMs = 80;
const maxBarCells = 40;
const maxLosses = 4096;
const sparkCells = 24;

/** A live display. Dispose it, or the cursor stays hidden. */
export class TerminalDisplay implements Disposable {
  readonly #terminal: Terminal;
  readonly #now: () => number;
  readonly #eta: Eta;
  readonly #losses: number[] = [];
  #live: string[] = [];
  #pending: string[] | null = null;
  #drawnMs = Number.NEGATIVE_INFINITY;

  constructor(terminal: Terminal, now: () => number = () => performance.now()) {
    this.#terminal = terminal;
    this.#now = now;
    this.#eta = new Eta(now);
    terminal.write(hideCursor);
  }

  /** The listener. */
  readonly listen = (event: TrainEvent): void => {
    if (event.type === 'start' || event.type === 'rollback') this.#eta.begin(event.step);
    const lasting = lastingLines(event);
    if (event.type === 'prepare') this.#draw([prepareLine(event)]);
    else if (event.type === 'step') this.#draw(this.#stepLines(event));
    else if (event.type === 'end') this.#finish(lasting);
    else this.print(lasting);
  };

  /** Prints lines above the live ones. */
  print(lines: readonly string[]): void {
    const live = this.#pending ?? this.#live;
    this.#terminal.write(`${this.#erase()}${lines.map((line) => `${line}\n`).join('')}`);
    this.#show(live);
  }

  [Symbol.dispose](): void {
    if (this.#pending) this.#show(this.#pending);
    this.#terminal.write(`${this.#live.length > 0 ? '\n' : ''}${showCursor}`);
    this.#live = [];
  }

  #finish(lines: readonly string[]): void {
    if (this.#pending) this.#show(this.#pending);
    this.#terminal.write(`${this.#live.length > 0 ? '\n' : ''}${lines.map((line) => `${line}\n`).join('')}`);
    this.#live = [];
  }

  #stepLines(event: StepEvent): string[] {
    this.#losses.push(event.loss);
    if (this.#losses.length > maxLosses) this.#losses.splice(0, maxLosses / 2);
    const width = this.#width();
    const done = `${formatInteger(event.step)}/${formatInteger(event.steps)}`;
    const percent = `${String(Math.floor((100 * event.step) / event.steps)).padStart(3)} %`;
    const cells = Math.min(maxBarCells, width - done.length - percent.length - 4);
    const head = cells >= 5 ? `${bar(event.step / event.steps, cells)}  ${percent}  ${done}` : `${percent} ${done}`;
    const spark = width >= 60 ? [sparkline(this.#losses, sparkCells)] : [];
    return [head.slice(0, width), fitted([...stepFields(event, this.#eta.left(event)), ...spark], width)];
  }

  #draw(lines: string[]): void {
    this.#pending = lines;
    if (this.#now() - this.#drawnMs >= minRedrawMs) this.#show(lines);
  }

  #show(lines: readonly string[]): void {
    // Whatever is wider than the terminal would wrap, and the next redraw would erase too little.
    const cut = lines.map((line) => line.slice(0, this.#width()));
    this.#terminal.write(`${this.#erase()}${cut.join('\n')}`);
    this.#live = cut;
    this.#pending = null;
    this.#drawnMs = this.#now();
  }

  #erase(): string {
    const up = this.#live.length > 1 ? `\x1b[${this.#live.length - 1}A` : '';
    this.#live = [];
    return `\r${up}\x1b[0J`;
  }

  /** One column stays free: a full line makes some terminals wrap at once. */
  #width(): number {
    return Math.max(10, (this.#terminal.columns ?? 80) - 1);
  }
}

const hideCursor = '\x1b[?25l';
const showCursor = '\x1b[?25h';

/** `████▌───────`, to an eighth of a cell. */
export function bar(share: number, cells: number): string {
  const eighths = Math.round(Math.min(Math.max(share, 0), 1) * cells * 8);
  const full = Math.floor(eighths / 8);
  const part = ['', '▏', '▎', '▍', '▌', '▋', '▊', '▉'][eighths % 8] as string;
  return `${'█'.repeat(full)}${part}`.padEnd(cells, '─');
}

/** The course of numbers as small columns, each the mean of its part. */
export function sparkline(values: readonly number[], cells: number): string {
  const finite = values.filter(Number.isFinite);
  const count = Math.min(cells, finite.length);
  const means = Array.from({ length: count }, (_, i) => {
    const part = finite.slice(Math.floor((i * finite.length) / count), Math.floor(((i + 1) * finite.length) / count));
    return part.reduce((sum, value) => sum + value, 0) / part.length;
  });
  const [low, high] = [Math.min(...means), Math.max(...means)];
  const levels = '▁▂▃▄▅▆▇█';
  return means.map((mean) => levels[high > low ? Math.round((7 * (mean - low)) / (high - low)) : 3]).join('');
}

/** Fields from the front, as many as fit. */
function fitted(fields: readonly string[], width: number): string {
  let line = '';
  for (const field of fields) {
    const longer = line === '' ? field : `${line}  ${field}`;
    if (longer.length > width) continue;
    line = longer;
  }
  return line;
}
