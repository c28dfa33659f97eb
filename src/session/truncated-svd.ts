// The best approximation of a matrix by one of low rank, from its leading singular vectors (Eckart & Young 1936), found by
// randomized subspace iteration. Halko, Martinsson & Tropp 2011, arXiv:0909.4061, algorithm 4.4.
// M, N rows and columns of the matrix, R rank, L ≥ R vectors that are iterated
import { randomUint32 } from '../data/shuffle.js';
import type { Device } from '../runtime/device.js';
import { type Matrix, productOf } from './products.js';

/** A matrix in two factors. */
export interface TruncatedSvd {
  /** U·√Σ, [M, R]. */
  left: Matrix;
  /** √Σ·Vᵀ, [R, N]. */
  right: Matrix;
  /** The R greatest singular values, the greatest first. */
  singular: Float64Array;
  /** Sum of the squares of the matrix. */
  energy: number;
}

/** More vectors than are asked for: the iteration then converges with the gap to the last of them. */
const oversampling = (rank: number) => rank + Math.max(16, Math.ceil(rank / 4));

/** Ends when a round finds less than this share of the matrix's squares anew. */
const leastGain = 1e-5;
const mostRounds = 100;

/** @param matrix - [M, N] @param rank - R, at most M and N */
export async function truncatedSvd(device: Device, matrix: Matrix, rank: number): Promise<TruncatedSvd> {
  const [rows, columns] = matrix.shape as [number, number];
  const energy = squares(matrix.data);
  const count = Math.min(rows, columns, oversampling(rank));
  // Singular vectors are sought on the shorter side, right ones (length N) or left ones; their images lie on the other.
  const isWide = columns > rows;
  const [length, imageLength] = isWide ? [rows, columns] : [columns, rows];

  const random = randomUint32(rows, columns, rank);
  let basis = orthonormalized(
    Float64Array.from({ length: count * length }, () => random() / 2 ** 31 - 1),
    length,
  );
  let image: Matrix;
  for (let found = 0, round = 0; ; round++) {
    const vectors = { data: Float32Array.from(basis), shape: [count, length] };
    image = await productOf(device, vectors, matrix, { transposeB: !isWide });
    const now = squares(image.data);
    if (now - found <= leastGain * energy || round === mostRounds) break;
    found = now;
    const next = await productOf(device, image, matrix, { transposeB: isWide });
    basis = orthonormalized(Float64Array.from(next.data), length);
  }

  // Within the span that was found, the singular vectors are those of the images' Gram matrix.
  const images = Float64Array.from(image.data);
  const { values, vectors } = eigenvectors(gram(images, imageLength), count);
  const order = [...values.keys()].sort((a, b) => (values[b] as number) - (values[a] as number)).slice(0, rank);
  const singular = Float64Array.from(order, (i) => Math.sqrt(Math.max(0, values[i] as number)));
  const left = new Float32Array(rows * rank);
  const right = new Float32Array(rank * columns);
  for (const [r, i] of order.entries()) {
    const along = row(vectors, i, count);
    const [vector, scaled] = [combination(along, basis, length), combination(along, images, imageLength)];
    // Where a value is nothing, one factor keeps a direction, so that training can still use it.
    const scale = Math.sqrt(Math.max(singular[r] as number, 1e-6 * (singular[0] as number))) || 1;
    for (let n = 0; n < length; n++) vector[n] = (vector[n] as number) * scale;
    for (let n = 0; n < imageLength; n++) scaled[n] = (scaled[n] as number) / scale;
    const [u, v] = isWide ? [vector, scaled] : [scaled, vector];
    for (let m = 0; m < rows; m++) left[m * rank + r] = u[m] as number;
    right.set(v, r * columns);
  }
  return {
    left: { data: left, shape: [rows, rank] },
    right: { data: right, shape: [rank, columns] },
    singular,
    energy,
  };
}

const row = (matrix: Float64Array, i: number, length: number) => matrix.subarray(i * length, (i + 1) * length);

function squares(values: Float32Array | Float64Array): number {
  let sum = 0;
  for (const x of values) sum += x * x;
  return sum;
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] as number) * (b[i] as number);
  return sum;
}

/** Makes rows orthonormal, in place. A row that the ones before it span gives way to another direction. */
function orthonormalized(rows: Float64Array, length: number): Float64Array {
  const random = randomUint32(rows.length, length);
  for (let i = 0; i * length < rows.length; i++) {
    const own = row(rows, i, length);
    let norm = Math.sqrt(squares(own));
    for (let isNew = false; !isNew; ) {
      const before = norm;
      for (let j = 0; j < i; j++) addMultiple(own, row(rows, j, length), -dot(own, row(rows, j, length)));
      norm = Math.sqrt(squares(own));
      // Once more where little is left, for that has the rounding errors of what was taken away.
      isNew = norm > 0.1 * before;
      if (norm > 1e-12 * before) continue;
      for (let n = 0; n < length; n++) own[n] = random() / 2 ** 31 - 1;
      norm = Math.sqrt(squares(own));
    }
    for (let n = 0; n < length; n++) own[n] = (own[n] as number) / norm;
  }
  return rows;
}

function addMultiple(y: Float64Array, x: Float64Array, factor: number): void {
  for (let i = 0; i < y.length; i++) y[i] = (y[i] as number) + factor * (x[i] as number);
}

/** Σ weights[i] · row i. */
function combination(weights: Float64Array, rows: Float64Array, length: number): Float64Array {
  const sum = new Float64Array(length);
  for (const [i, weight] of weights.entries()) addMultiple(sum, row(rows, i, length), weight);
  return sum;
}

/** Products of all rows with all. */
function gram(rows: Float64Array, length: number): Float64Array {
  const count = rows.length / length;
  const products = new Float64Array(count * count);
  for (let i = 0; i < count; i++) {
    for (let j = 0; j <= i; j++) {
      const product = dot(row(rows, i, length), row(rows, j, length));
      products[i * count + j] = product;
      products[j * count + i] = product;
    }
  }
  return products;
}

/** Eigenvalues and, as rows, eigenvectors of a symmetric matrix, which is used up: Jacobi's rotations (1846). */
function eigenvectors(matrix: Float64Array, count: number): { values: Float64Array; vectors: Float64Array } {
  const at = (i: number, j: number) => matrix[i * count + j] as number;
  const vectors = Float64Array.from({ length: count * count }, (_, i) => Number(i % (count + 1) === 0));
  for (let sweep = 0, turned = true; turned && sweep < 30; sweep++) {
    turned = false;
    for (let i = 1; i < count; i++) {
      for (let j = 0; j < i; j++) {
        if (at(i, j) ** 2 <= 1e-24 * Math.abs(at(i, i) * at(j, j))) continue;
        turned = true;
        const zeta = (at(i, i) - at(j, j)) / (2 * at(i, j));
        const tangent = Math.sign(zeta || 1) / (Math.abs(zeta) + Math.hypot(1, zeta));
        const cosine = 1 / Math.hypot(1, tangent);
        const sine = cosine * tangent;
        turn(row(matrix, j, count), row(matrix, i, count), cosine, sine);
        for (let k = 0; k < count; k++) {
          const [x, y] = [at(k, j), at(k, i)];
          matrix[k * count + j] = cosine * x - sine * y;
          matrix[k * count + i] = sine * x + cosine * y;
        }
        turn(row(vectors, j, count), row(vectors, i, count), cosine, sine);
      }
    }
  }
  return { values: Float64Array.from({ length: count }, (_, i) => at(i, i)), vectors };
}

/** Rows a and b become cos·a − sin·b and sin·a + cos·b. */
function turn(a: Float64Array, b: Float64Array, cosine: number, sine: number): void {
  for (let i = 0; i < a.length; i++) {
    const [x, y] = [a[i] as number, b[i] as number];
    a[i] = cosine * x - sine * y;
    b[i] = sine * x + cosine * y;
  }
}
