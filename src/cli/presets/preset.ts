import type { TrainOptions } from '../../train/options.js';

/** A whole run but for where it goes. A preset without sources needs data to be named. */
export type Preset = Omit<TrainOptions, 'out'>;
