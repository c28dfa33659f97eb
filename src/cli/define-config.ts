import type { ConfigFile } from './config-options.js';
import { presets } from './presets/presets.js';

/**
 * Gives a configuration file its types: `export default defineConfig({ preset: 'test', steps: 200 })`. What is left out
 * comes from the preset and from flags.
 *
 * @param config - the configuration, or a function that makes it from the presets
 */
export function defineConfig(config: ConfigFile | ((given: { presets: typeof presets }) => ConfigFile)): ConfigFile {
  return typeof config === 'function' ? config({ presets }) : config;
}
