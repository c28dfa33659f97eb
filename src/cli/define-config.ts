import type { TrainOptions } from '../train/config.js';

/** Gives a configuration file its types: `export default defineConfig({ … })`. What is left out comes from flags. */
export function defineConfig(config: Partial<TrainOptions>): Partial<TrainOptions> {
  return config;
}
