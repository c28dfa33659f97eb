import { openModel, Session, type SessionOptions } from '../session/session.js';
import { type GenerateOptions, generate, type Piece } from './generate.js';

/** A session that also generates. */
export class LoadedModel extends Session {
  /** Continues a prompt, token by token; see {@link generate}. */
  generate(prompt: string | readonly number[], options: GenerateOptions = {}): AsyncGenerator<Piece, void, undefined> {
    return generate(this, prompt, options);
  }
}

/**
 * Opens a Hugging Face directory; dispose of the model with `using` or `dispose()`.
 *
 * @throws HadalError HADAL_ERR_CONFIG, HADAL_ERR_CHECKPOINT, HADAL_ERR_FORMAT, HADAL_ERR_IO, HADAL_ERR_DEVICE, HADAL_ERR_DTYPE
 */
export async function loadModel(dir: string, options: SessionOptions = {}): Promise<LoadedModel> {
  return new LoadedModel(await openModel(dir, options), { owns: true });
}
