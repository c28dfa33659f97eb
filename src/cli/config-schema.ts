// What a configuration file may say: a run's options, all of them optional because presets and flags give the rest.
import { z } from 'zod';
import { trainSchema } from '../train/config.js';
import { type PresetName, presets } from './presets/presets.js';

const { data } = trainSchema.shape;

/** Schema of a configuration file. */
export const configFileSchema = z.strictObject({
  $schema: z.string().optional().describe('Location of the JSON schema, for editors.'),
  preset: z
    .enum(Object.keys(presets) as [PresetName, ...PresetName[]])
    .optional()
    .describe('A whole run by name, over which the file is laid field by field.'),
  name: z
    .string()
    .regex(/^\w[\w.-]*$/, { error: 'letters, digits, dots and dashes' })
    .optional()
    .describe('Name of the run: where `out` is left out, run directories are `runs/<name>-1`, `-2`, …'),
  ...trainSchema.extend({ data: data.partial().describe(data.description ?? '') }).partial().shape,
});
