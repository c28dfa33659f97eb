// Made by `npm run docs:generate` from the schemas in src/.

/** A configuration file: the options of a run, and the preset it starts from. */
export interface ConfigFile {
  /** Location of the JSON schema, for editors. */
  $schema?: string | undefined;
  /** A whole run by name, over which the file is laid field by field. */
  preset?: 'shallow' | 'test' | 'gpt2-124m' | 'deepseek-v2-lite' | 'deepseek-v3' | undefined;
  /** Name of the run: where `out` is left out, run directories are `runs/<name>-1`, `-2`, … */
  name?: string | undefined;
  /** The model: its shape, to start from random weights, or a directory or `.gguf` file, to go on from its weights. */
  model?: {
    /** Fields of a Hugging Face `config.json`, `model_type` among them; training starts from random weights. */
    config: Record<string, unknown>;
  } | {
    /** A checkpoint, another model directory (config.json, safetensors) or a `.gguf` file; training starts from its weights. */
    directory: string;
  } | undefined;
  /** What is trained on. */
  data?: {
    /** What to train on: files, folders and globs of txt, md, jsonl, csv, tsv (each also .gz) and parquet; one folder that `hadal prepare` made; or the named sources `sotu` and `synthetic`. A source may be { path, weight, textField }. */
    sources?: (string | {
      /** A file, folder, glob or named source. */
      path: string;
      /** The source's share of the training rows, relative to the others' weights. */
      weight?: number | undefined;
      /** Field of a jsonl line, or column of a csv, tsv or parquet file, that holds the text. */
      textField?: string | undefined;
    })[] | undefined;
    /** Field of a jsonl line, or column of a csv, tsv or parquet file, that holds the text. Default: "text". */
    textField?: string | undefined;
    /** Share of the documents kept for evaluation. Prepared data keeps the share it was made with. Default: 0.05. */
    heldOut?: number | undefined;
    /** What becomes of bytes that are not UTF-8: an error that names the line, or U+FFFD in their place. Default: "error". */
    invalidUtf8?: 'error' | 'replace' | undefined;
    /** Whether names of special tokens within a document, such as <|endoftext|>, are plain text. False: they become the tokens, as texts in a chat format need. Default: true. */
    specialTokensAsText?: boolean | undefined;
    /** A tokenizer.json or a directory with one; null: that of prepared data, the model directory's, or one trained on the data. Default: null. */
    tokenizer?: string | null | undefined;
    /** Where tokenized data is kept between runs. Default: ".hadal/data". */
    cache?: string | undefined;
  } | undefined;
  /** Run directory: checkpoints, metrics, the resolved configuration. The command line counts on: `runs/<name>-1`, `-2`, … */
  out?: string | undefined;
  /** Updates of the whole run. */
  steps?: number | undefined;
  /** Rows an update. */
  batch?: number | undefined;
  /** Tokens a row. */
  seqLen?: number | undefined;
  /** An update's rows are computed in so many equal parts, whose gradients are summed; divides `batch`. Default: 1. */
  gradAccumulationSteps?: number | undefined;
  /** AdamW and its schedule: linear warm-up, then a cosine. */
  optimizer?: {
    /** Learning rate after warm-up, the highest of the run. Default: 0.001. */
    lr?: number | undefined;
    /** Learning rate at the end of the cosine, as a share of `lr`. Default: 0.1. */
    minLrRatio?: number | undefined;
    /** Updates during which the learning rate rises from 0 to `lr`. Default: 20. */
    warmupSteps?: number | undefined;
    /** Decay of the running mean of gradients, an update. Default: 0.9. */
    beta1?: number | undefined;
    /** Decay of the running mean of squared gradients, an update. Default: 0.95. */
    beta2?: number | undefined;
    /** Added to the root of the squared mean, against division by zero. Default: 1e-8. */
    eps?: number | undefined;
    /** Decoupled weight decay of matrices, times the learning rate; norms and biases have none. Default: 0.1. */
    weightDecay?: number | undefined;
    /** Gradients of a greater global L2 norm are scaled down to it. Default: 1. */
    clipNorm?: number | undefined;
  } | undefined;
  /** Weights of the terms of the loss. */
  loss?: {
    /** Share of the target probability that is spread over the vocabulary. Default: 0. */
    labelSmoothing?: number | undefined;
    /** Weight of the squared log-normalizer of the logits, which keeps them small. Default: 0. */
    zLoss?: number | undefined;
    /** λ: weight of the mean multi-token-prediction loss. Default: 0.3. */
    mtpWeight?: number | undefined;
    /** α: weight of the sequence-wise balance loss of the experts. Default: 0.0001. */
    balanceWeight?: number | undefined;
    /** γ: how far an expert's routing bias moves an update, towards equal load. Default: 0.001. */
    routerBiasSpeed?: number | undefined;
  } | undefined;
  /** Loss on held-out text. */
  evaluation?: {
    /** Updates between evaluations; 0: only before the first and after the last. Default: 0. */
    every?: number | undefined;
    /** Batches of held-out text an evaluation; 0: all of it. Default: 0. */
    batches?: number | undefined;
  } | undefined;
  /** When the run is saved. */
  checkpoint?: {
    /** Updates between checkpoints; 0: only at the end. Default: 0. */
    every?: number | undefined;
    /** Newest checkpoints that are kept; older ones are deleted. Default: 2. */
    keep?: number | undefined;
  } | undefined;
  /** Seed of weights and data order: the same seed, the same run. Default: 0. */
  seed?: number | undefined;
  /** Where to compute; `auto`: the best device there is. Default: "auto". */
  device?: 'auto' | 'cpu' | undefined;
  /** Number format of the computation; `auto`: bf16 where the machine has products for it, else fp32. Weights, moments, gradients of weights, statistics, routing and loss are fp32 always. Default: "auto". */
  dtype?: 'auto' | 'fp32' | 'bf16' | undefined;
  /** Threads of the computation; null: as many as there are processors that the process may use. Default: null. */
  threads?: number | null | undefined;
  /** Bind each of them to a processor of its own (Linux); for a machine that does nothing else. Default: false. */
  pinThreads?: boolean | undefined;
  /** Continue what is in the run directory, or start when there is nothing. Default: false. */
  resume?: boolean | undefined;
}
