// Frequencies of rotary embeddings, and what stretches them to longer contexts. Su et al. 2021, arXiv:2104.09864.
// YaRN: Peng et al. 2023, arXiv:2309.00071, sections 3.2 to 3.4, as DeepSeek-V2 and V3 use it (two scales: one on cos and
// sin, one on the scores). Linear: Chen et al. 2023, arXiv:2306.15595. The others as in transformers.

/** YaRN's parameters, by the meaning of `rope_scaling` in a Hugging Face config. */
export interface YarnScaling {
  type: 'yarn';
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
  /** What cos and sin are multiplied by, in place of what the scales give. */
  attentionFactor?: number;
  /** Whether the ramp begins and ends at whole dims (default true). */
  truncate?: boolean;
}

/** Position interpolation: every dim turns `factor` times as slowly. */
export interface LinearScaling {
  type: 'linear';
  factor: number;
}

/** Dynamic NTK: changes the frequencies only past the model's longest sequence, which nothing here goes beyond. */
export interface DynamicScaling {
  type: 'dynamic';
  factor: number;
}

/** Llama 3.1's: dims of long wavelength are slowed down by `factor`. */
export interface Llama3Scaling {
  type: 'llama3';
  factor: number;
  /** Dims that turn less often than this within the original context are slowed down wholly. */
  lowFreqFactor: number;
  /** Dims that turn more often than this keep their frequency. */
  highFreqFactor: number;
  /** Context length, in tokens, before the extension. */
  originalMaxPositionEmbeddings: number;
}

/** How frequencies are stretched, by the `rope_type` of a Hugging Face config. */
export type RopeScaling = YarnScaling | LinearScaling | DynamicScaling | Llama3Scaling;

/** Paper's √(1/t), eq. 22, with DeepSeek's weight. */
const magnitude = (factor: number, mscale: number) => (factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1);

/**
 * Angle per position of each of the `rotaryDims`/2 pairs, in radians.
 *
 * @param rotaryDims - R, even
 */
export function inverseFrequencies(
  rotaryDims: number,
  theta: number,
  scaling: RopeScaling | null = null,
): Float64Array {
  const plain = Float64Array.from({ length: rotaryDims / 2 }, (_, i) => theta ** ((-2 * i) / rotaryDims));
  switch (scaling?.type) {
    case 'linear':
      return plain.map((frequency) => frequency / scaling.factor);
    case 'llama3':
      return plain.map((frequency) => llama3Frequency(frequency, scaling));
    case 'yarn':
      return yarnFrequencies(plain, theta, scaling);
    default:
      return plain;
  }
}

function yarnFrequencies(plain: Float64Array, theta: number, yarn: YarnScaling): Float64Array {
  const { factor, originalMaxPositionEmbeddings: context, betaFast = 32, betaSlow = 1, truncate = true } = yarn;
  const rotaryDims = 2 * plain.length;
  // The dim that turns so many times within the original context.
  const dimOf = (turns: number) => (rotaryDims * Math.log(context / (2 * Math.PI * turns))) / (2 * Math.log(theta));
  const [first, last] = [dimOf(betaFast), dimOf(betaSlow)];
  const low = Math.max(truncate ? Math.floor(first) : first, 0);
  const high = Math.min(truncate ? Math.ceil(last) : last, rotaryDims - 1);
  const width = high === low ? 0.001 : high - low;
  return plain.map((frequency, i) => {
    const ramp = Math.min(Math.max((i - low) / width, 0), 1);
    return (frequency / factor) * ramp + frequency * (1 - ramp);
  });
}

function llama3Frequency(frequency: number, scaling: Llama3Scaling): number {
  const { factor, lowFreqFactor: low, highFreqFactor: high, originalMaxPositionEmbeddings: context } = scaling;
  const turns = (context * frequency) / (2 * Math.PI);
  if (turns > high) return frequency;
  if (turns < low) return frequency / factor;
  const kept = (turns - low) / (high - low);
  return (frequency / factor) * (1 - kept) + frequency * kept;
}

/** m², which multiplies the usual softmax scale 1/√D; 1 without `mscaleAllDim`. */
export function softmaxScaleFactor(yarn: YarnScaling | null): number {
  return yarn?.mscaleAllDim ? magnitude(yarn.factor, yarn.mscaleAllDim) ** 2 : 1;
}

/** What cos and sin are multiplied by; 1 where `mscale` = `mscaleAllDim`, as in DeepSeek's models, and without YaRN. */
export function rotaryMultiplier(scaling: RopeScaling | null): number {
  if (scaling?.type !== 'yarn') return 1;
  const { factor, mscale, mscaleAllDim, attentionFactor } = scaling;
  if (attentionFactor !== undefined) return attentionFactor;
  return mscale && mscaleAllDim ? magnitude(factor, mscale) / magnitude(factor, mscaleAllDim) : magnitude(factor, 1);
}
