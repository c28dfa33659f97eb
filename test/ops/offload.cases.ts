/** Tensors that one call is for. */
export interface OffloadCase {
  name: string;
  /** Elements of each. */
  sizes: readonly number[];
}

export const cases: OffloadCase[] = [
  { name: 'one number', sizes: [1] },
  { name: 'nothing', sizes: [0] },
  { name: 'whole pages', sizes: [1024, 4096] },
  { name: 'parts of pages', sizes: [1025, 7, 100_001] },
  { name: 'as many as a call takes', sizes: Array.from({ length: 64 }, (_, i) => 1 + 531 * i) },
];
