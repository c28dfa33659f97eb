// Frequencies of rotary embeddings, with the YaRN extension. Su et al. 2021, arXiv:2104.09864; Peng et al. 2023,
// arXiv:2309.00071, sections 3.2 to 3.4, as DeepSeek-V2 and V3 use it (two scales: one on cos and sin, one on the scores).

/** YaRN's parameters, by the meaning of `rope_scaling` in a Hugging Face config. */
export interface YarnScaling {
  /** How many times longer the context becomes. */
  factor: number;
  /** Context length, in tokens, before the extension. */
  originalMaxPositionEmbeddings: number;
  /** Dims that turn more often than this within the original context keep their frequency (default 32). */
  betaFast?: number;
  /** Dims that turn less often than this are slowed down by `factor` (default 1). */
  betaSlow?: number;
  mscale?: number;
  mscaleAllDim?: number;
}

/** Paper's √(1/t), eq. 22, with DeepSeek's weight. */
const magnitude = (factor: number, mscale: number) => (factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1);

/**
 * Angle per position of each of the `rotaryDims`/2 pairs, in radians.
 *
 * @param rotaryDims - R, even
 */
export function inverseFrequencies(rotaryDims: number, theta: number, yarn: YarnScaling | null = null): Float64Array {
  const plain = Float64Array.from({ length: rotaryDims / 2 }, (_, i) => theta ** ((-2 * i) / rotaryDims));
  if (!yarn) return plain;
  const { factor, originalMaxPositionEmbeddings: context, betaFast = 32, betaSlow = 1 } = yarn;
  // The dim that turns so many times within the original context.
  const dimOf = (turns: number) => (rotaryDims * Math.log(context / (2 * Math.PI * turns))) / (2 * Math.log(theta));
  const low = Math.max(Math.floor(dimOf(betaFast)), 0);
  const high = Math.min(Math.ceil(dimOf(betaSlow)), rotaryDims - 1);
  const width = high === low ? 0.001 : high - low;
  return plain.map((frequency, i) => {
    const ramp = Math.min(Math.max((i - low) / width, 0), 1);
    return (frequency / factor) * ramp + frequency * (1 - ramp);
  });
}

/** m², which multiplies the usual softmax scale 1/√D; 1 without `mscaleAllDim`. */
export function softmaxScaleFactor(yarn: YarnScaling | null): number {
  return yarn?.mscaleAllDim ? magnitude(yarn.factor, yarn.mscaleAllDim) ** 2 : 1;
}

/** What cos and sin are multiplied by; 1 where `mscale` = `mscaleAllDim`, as in DeepSeek's models. */
export function rotaryMultiplier(yarn: YarnScaling | null): number {
  if (!yarn) return 1;
  const { factor, mscale, mscaleAllDim } = yarn;
  return mscale && mscaleAllDim ? magnitude(factor, mscale) / magnitude(factor, mscaleAllDim) : magnitude(factor, 1);
}

/**
 * Tables for `rotary`: row p holds cos and sin of p · frequency, times {@link rotaryMultiplier}. Computed in float64.
 *
 * @param positions - P
 * @param rotaryDims - R, even
 * @returns two [P, R/2]
 */
export function rotaryTables(
  positions: number,
  rotaryDims: number,
  theta: number,
  yarn: YarnScaling | null = null,
): { cos: Float32Array; sin: Float32Array } {
  const frequencies = inverseFrequencies(rotaryDims, theta, yarn);
  const multiplier = rotaryMultiplier(yarn);
  const pairs = frequencies.length;
  const table = (curve: (angle: number) => number) =>
    Float32Array.from(
      { length: positions * pairs },
      (_, i) => curve(Math.floor(i / pairs) * (frequencies[i % pairs] as number)) * multiplier,
    );
  return { cos: table(Math.cos), sin: table(Math.sin) };
}
