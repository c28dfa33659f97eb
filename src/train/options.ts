// Made by `npm run docs:generate` from the schemas in src/.

/** What `train` takes: defaults may be left out. */
export interface TrainOptions {
  /** The model: its shape, to start from random weights, or a directory or `.gguf` file, to go on from its weights. */
  model: {
    /** Fields of a Hugging Face `config.json`, `model_type` among them; training starts from random weights. */
    config: Record<string, unknown>;
    /** Weights that layers share. Default: []. */
    ties?: ({
      /** Names of parameters of layers, `*` and `{a,b}` as in a shell: `model.layers.{1,3}.self_attn.*`. Those whose names differ by the number of the layer alone are one parameter. */
      match: string;
      /** So many layers share, then the next ones do: 2 for pairs. All that match unless given. */
      neighbours?: number | undefined;
      /** Share of the rows of each tensor that is common; every layer has the other rows for itself. All unless given. */
      share?: number | undefined;
    })[] | undefined;
    /** Matrices that are stored as products of two of low rank. Default: []. */
    lowRank?: ({
      /** Names of matrices, as in `ties`: `model.layers.*.mlp.down_proj.weight`. */
      match: string;
      /** Columns of the left factor, rows of the right one. */
      rank?: number | undefined;
      /** Instead of `rank`: how many numbers the factors have, as a share of those of the matrix. */
      share?: number | undefined;
    })[] | undefined;
  } | {
    /** A checkpoint, another model directory (config.json, safetensors) or a `.gguf` file; training starts from its weights. */
    directory: string;
    /** Weights that layers share. Default: []. */
    ties?: ({
      /** Names of parameters of layers, `*` and `{a,b}` as in a shell: `model.layers.{1,3}.self_attn.*`. Those whose names differ by the number of the layer alone are one parameter. */
      match: string;
      /** So many layers share, then the next ones do: 2 for pairs. All that match unless given. */
      neighbours?: number | undefined;
      /** Share of the rows of each tensor that is common; every layer has the other rows for itself. All unless given. */
      share?: number | undefined;
    })[] | undefined;
    /** Matrices that are stored as products of two of low rank. Default: []. */
    lowRank?: ({
      /** Names of matrices, as in `ties`: `model.layers.*.mlp.down_proj.weight`. */
      match: string;
      /** Columns of the left factor, rows of the right one. */
      rank?: number | undefined;
      /** Instead of `rank`: how many numbers the factors have, as a share of those of the matrix. */
      share?: number | undefined;
    })[] | undefined;
  };
  /** What is trained on. */
  data: {
    /** What to train on: files, folders and globs of txt, md, jsonl, csv, tsv (each also .gz) and parquet; one folder that `hadal prepare` made; or the named sources `sotu` and `synthetic`. A source may be { path, weight, textField }. */
    sources: (string | {
      /** A file, folder, glob or named source. */
      path: string;
      /** The source's share of the training rows, relative to the others' weights. */
      weight?: number | undefined;
      /** Field of a jsonl line, or column of a csv, tsv or parquet file, that holds the text. */
      textField?: string | undefined;
    })[];
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
  };
  /** Run directory: checkpoints, metrics, the resolved configuration. The command line counts on: `runs/<name>-1`, `-2`, … */
  out: string;
  /** Updates of the whole run. */
  steps: number;
  /** Rows an update; `auto`: 80 % of the most that one micro-batch has room for in memory. */
  batch: number | 'auto';
  /** Tokens a row. */
  seqLen: number;
  /** An update's rows are computed in so many equal parts, whose gradients are summed; divides `batch`. `auto`: as few as memory has room for. Default: 1. */
  gradAccumulationSteps?: number | 'auto' | undefined;
  /** Updates of fewer rows at the beginning; null: none. Default: null. */
  batchRamp?: {
    /** Rows of the first update. */
    from: number;
    /** Updates until there are `batch` rows, in equal steps of whole micro-batches. */
    steps: number;
  } | null | undefined;
  /** What of the forward pass is computed once more in the backward pass instead of being kept: nothing, all but what products made, all but the input of every k-th or √n-th layer, or (`auto`) as little as the memory budget asks for. Results are the same, bit for bit. Default: "none". */
  activationCheckpointing?: 'none' | 'selective' | 'sqrt' | 'auto' | {
    /** Layers between two whose input is kept. */
    every: number;
  } | undefined;
  /** What the run may take. */
  memory?: {
    /** Bytes the process may take, as a number or such as `12GiB`; `auto`: what the machine has free. Default: "auto". */
    budget?: number | string | undefined;
    /** Rows whose logits exist at a time; `auto`: as many as run fastest, fewer where only that fits. Other rows, another order of sums. Default: "auto". */
    lossChunkRows?: number | 'auto' | undefined;
    /** State that lies in a memory-mapped file instead of in memory. */
    offload?: {
      /** Whether moments lie in a file. Default: false. */
      optimizer?: boolean | undefined;
      /** Whether weights lie in a file, read a layer ahead. Default: false. */
      parameters?: boolean | undefined;
      /** Where the file is, on a fast disk; it is gone when the run ends. Null: the run directory. Default: null. */
      directory?: string | null | undefined;
    } | undefined;
  } | undefined;
  /** The optimizer, the schedule of its learning rate, and clipping. */
  optimizer?: {
    /** What updates the weights. `muon`: the matrices of layers by Muon, the others by AdamW. Default: "adamw". */
    kind?: 'adamw' | 'lion' | 'muon' | 'sgd' | undefined;
    /** Learning rate after warm-up, the highest of the run. Default: 0.001. */
    lr?: number | undefined;
    /** Learning rate at the end of the schedule, as a share of `lr`. Default: 0.1. */
    minLrRatio?: number | undefined;
    /** Updates during which the learning rate rises from 0 to `lr`. Default: 20. */
    warmupSteps?: number | undefined;
    /** The same as a share of the run; null: `warmupSteps` counts. Default: null. */
    warmupShare?: number | null | undefined;
    /** What the learning rate does after warm-up. */
    schedule?: {
      /** What the learning rate does after warm-up. `deepseek-v3`: the plateaus and the cosine of that paper, by shares of the run. Default: "cosine". */
      shape?: 'constant' | 'cosine' | 'polynomial' | 'warmup-stable-decay' | 'deepseek-v3' | 'step' | undefined;
      /** Exponent of `polynomial`; 1: a straight line. Default: 1. */
      power?: number | undefined;
      /** Share of the updates after warm-up in which `warmup-stable-decay` comes down. Default: 0.2. */
      decayShare?: number | undefined;
      /** How `warmup-stable-decay` comes down. Default: "cosine". */
      decay?: 'linear' | 'cosine' | 'sqrt' | undefined;
      /** Of `step`: from which shares of the run on the learning rate is which share of `lr`. Default: []. */
      milestones?: ({
        /** Share of the run from which the value counts. */
        from: number;
        /** The value that counts from there on. */
        value: number;
      })[] | undefined;
    } | undefined;
    /** Decay of the running mean of gradients, an update. Default: 0.9. */
    beta1?: number | undefined;
    /** Decay of the running mean of squared gradients, an update. Lion: of the gradients kept. Default: 0.95. */
    beta2?: number | undefined;
    /** β1 and β2 that change over the run. Default: null. */
    betaSchedule?: {
      /** β1 at the end of the run; left out: it stays. */
      beta1End?: number | undefined;
      /** β2 at the end of the run; left out: it stays. */
      beta2End?: number | undefined;
      /** Exponent p of β_t = end + (begin − end)·(1 − t/T)^p. Default: 1. */
      power?: number | undefined;
    } | null | undefined;
    /** Added to the root of the squared mean, against division by zero. Default: 1e-8. */
    eps?: number | undefined;
    /** Decoupled weight decay of matrices, times the learning rate; norms and biases have none. Default: 0.1. */
    weightDecay?: number | undefined;
    /** λ₄ of a decay by λ₄·w³ beside it, times the learning rate. AdamW only. Default: 0. */
    l4Decay?: number | undefined;
    /** Number format of the moments of AdamW and Lion. Default: "fp32". */
    momentDtype?: 'fp32' | 'bf16' | undefined;
    /** Lion of the paper, or sign(m)/(√s + eps) with m and s as AdamW has them. Default: "sign". */
    lionVariant?: 'sign' | 'root' | undefined;
    /** Of SGD and Muon. Default: 0.95. */
    momentum?: number | undefined;
    /** Whether SGD and Muon look ahead. Default: true. */
    nesterov?: boolean | undefined;
    /** Iterations by which Muon makes an update orthogonal. Default: 5. */
    newtonSchulzSteps?: number | undefined;
    /** Factor of Muon’s learning rate by a matrix’s shape: √max(1, out/in), or 0.2·√max(out, in). Default: "match-rms-adamw". */
    muonLrAdjustment?: 'original' | 'match-rms-adamw' | undefined;
    /** Parameters that are treated otherwise; of several that match, the last counts, field by field. Default: []. */
    groups?: ({
      /** Names of parameters; `*` any characters, `{a,b}` one of several. */
      match: string;
      /** Another optimizer for them. */
      kind?: 'adamw' | 'lion' | 'muon' | 'sgd' | undefined;
      /** Their learning rate, as a share of the others’. */
      lrRatio?: number | undefined;
      /** Their weight decay. */
      weightDecay?: number | undefined;
      /** False: they stay as they are. */
      trainable?: boolean | undefined;
    })[] | undefined;
    /** Gradients of a greater global L2 norm are scaled down to it; null: they are not. Default: 1. */
    clipNorm?: number | null | undefined;
    /** Elements of gradients of a greater absolute value are cut to it, before the norm is taken; null: none. Default: null. */
    clipValue?: number | null | undefined;
    /** A bound of the norm that follows the norms of the last updates; null: none. Default: null. */
    adaptiveClip?: {
      /** Which quantile of the last norms. Default: 0.9. */
      quantile?: number | undefined;
      /** How many norms are remembered. Default: 100. */
      window?: number | undefined;
      /** The bound, as a multiple of that quantile. Default: 2. */
      factor?: number | undefined;
    } | null | undefined;
    /** Decay, an update, of a running mean of the weights, kept beside them; null: none. Default: null. */
    emaDecay?: number | null | undefined;
  } | undefined;
  /** Weights of the terms of the loss. */
  loss?: {
    /** Share of the target probability that is spread over the vocabulary. Default: 0. */
    labelSmoothing?: number | undefined;
    /** Weight of the squared log-normalizer of the logits, which keeps them small. Default: 0. */
    zLoss?: number | undefined;
    /** λ: weight of the mean multi-token-prediction loss; or a list of values from shares of the run on. Default: 0.3. */
    mtpWeight?: number | ({
      /** Share of the run from which the value counts. */
      from: number;
      /** The value that counts from there on. */
      value: number;
    })[] | undefined;
    /** α: weight of the sequence-wise balance loss of the experts. Default: 0.0001. */
    balanceWeight?: number | undefined;
    /** γ: how far an expert's routing bias moves an update, towards equal load; or a list of values from shares of the run on. Default: 0.001. */
    routerBiasSpeed?: number | ({
      /** Share of the run from which the value counts. */
      from: number;
      /** The value that counts from there on. */
      value: number;
    })[] | undefined;
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
    /** So many more are kept: those of the lowest held-out loss. Default: 0. */
    best?: number | undefined;
    /** Save from a snapshot while training goes on; false: training waits until the checkpoint stands. Default: true. */
    background?: boolean | undefined;
  } | undefined;
  /** What is measured beside the loss, and what happens when it goes wrong. */
  watch?: {
    /** What happens when a measure leaves its range. Default: [{"metric":"gradNorm","above":10,"action":"warn","factor":0.5},{"metric":"activationRange","above":15,"action":"warn","factor":0.5},{"metric":"memory","above":0.9,"everySeconds":60,"action":"warn","factor":0.5}]. */
    rules?: ({
      /** What is looked at. `gradNorm`: before clipping; `activationRange`, `zerosShare`: of the layer where they are largest; `lossSpike`: the loss in standard deviations above the mean of the 16 before it; `lossVariance`: of the last 64; `memory`: share of the machine in use; `skippedSteps`: in a row. */
      metric: 'gradNorm' | 'activationRange' | 'zerosShare' | 'loss' | 'lossSpike' | 'lossVariance' | 'lossScale' | 'memory' | 'skippedSteps';
      /** The rule applies beyond this value. */
      above?: number | undefined;
      /** The rule applies under this value. */
      below?: number | undefined;
      /** Updates between two looks. Without an interval a rule applies when its condition begins to hold. */
      everySteps?: number | undefined;
      /** Seconds between two looks. */
      everySeconds?: number | undefined;
      /** Say so; leave the update out (of `gradNorm` above a value); multiply the learning rate with `factor`; go back to the last checkpoint and past the data since; or save and end. */
      action: 'warn' | 'skip' | 'lowerLr' | 'rollback' | 'stop';
      /** Of `lowerLr`. Default: 0.5. */
      factor?: number | undefined;
    })[] | undefined;
    /** Rollbacks to one checkpoint, each past more of the data; after so many a run ends. Default: 3. */
    maxRollbacks?: number | undefined;
    /** Updates between two in which the range of activations and their share of zeros are measured; 0: never. Default: 100. */
    activationsEvery?: number | undefined;
    /** Find the op and the layer that made the first number that is not finite, report it and end. Default: false. */
    debugNumerics?: boolean | undefined;
  } | undefined;
  /** Training in several processes, which a launcher starts: `hadal launch`, torchrun, mpirun, Slurm, Kubernetes. */
  dist?: {
    /** How processes train together: in step, summing their gradients; or each at its own pace, with a server that has the weights (`hadal launch --servers 1`). Default: "all-reduce". */
    mode?: 'all-reduce' | 'parameter-server' | undefined;
    /** Of `parameter-server`. */
    server?: {
      /** The most updates that are made between reading the weights and using the gradient computed with them; 0: as if all processes kept step. Default: 8. */
      staleness?: number | undefined;
      /** Seconds without a sign of life after which a worker is given up and its rows are another’s. Default: 10. */
      lease?: number | undefined;
      /** Number format in which gradients are sent to the server. Default: "fp32". */
      pushDtype?: 'fp32' | 'bf16' | undefined;
    } | undefined;
    /** What carries collectives: Gloo over TCP on CPUs, NCCL on GPUs; `auto`: by the device. Default: "auto". */
    backend?: 'auto' | 'gloo' | 'nccl' | undefined;
    /** Seconds that a collective waits for the other processes before the run fails, naming those missing. Default: 300. */
    timeout?: number | undefined;
    /** Gradients that are summed over the processes in one call, as soon as the last of them is computed. Default: 4. */
    bucketMiB?: number | undefined;
    /** Sum gradients while the backward pass goes on; false: after it, to compare. Default: true. */
    overlap?: boolean | undefined;
    /** ZeRO stage: what each process holds a share of only. 0: nothing; 1: state of the optimizer; 2: gradients, too; 3: weights, too. Default: 0. */
    zero?: number | undefined;
    /** How gradients are sent to the other processes. */
    compression?: {
      /** How gradients are sent: in fp32, rounded to 16 bits, as 8-bit integers in blocks with a scale each, the greatest alone with their places, or each matrix as a product of two of low rank. All but `none` change the result. Default: "none". */
      kind?: 'none' | 'fp16' | 'bf16' | 'int8' | 'topk' | 'powersgd' | undefined;
      /** Add what was not sent of a gradient to the next one, at the price of the gradients’ memory once more; null: for all kinds but `fp16` and `bf16`. Default: null. */
      errorFeedback?: boolean | null | undefined;
      /** `topk`: share of the numbers that are sent. Default: 0.01. */
      density?: number | undefined;
      /** `powersgd`: columns of the two matrices. Default: 4. */
      rank?: number | undefined;
      /** Updates before it begins, whose gradients are sent in fp32: the first gradients are those that compress worst. Default: 0. */
      startStep?: number | undefined;
    } | undefined;
  } | undefined;
  /** Seed of weights and data order: the same seed, the same run. Default: 0. */
  seed?: number | undefined;
  /** Where to compute: `cpu`; `cuda` or `cuda:1`, a GPU; `cuda-sim`, the GPU’s kernels executed by the processor, slowly; `auto`: a GPU where there is one, else the processor. Default: "auto". */
  device?: string | undefined;
  /** Number format of the computation; `auto`: bf16 where the machine has products for it, else fp32; `fp8`: bf16 whose linear products are rounded as DeepSeek-V3 does, emulated. Weights, gradients of weights, statistics, routing and loss are fp32 always. Default: "auto". */
  dtype?: 'auto' | 'fp32' | 'bf16' | 'fp16' | 'fp8' | undefined;
  /** Exceptions to `dtype`, and how 16-bit floats are kept in range. */
  precision?: {
    /** Layers in another number format than `dtype`; of several that match, the last counts. Default: []. */
    layers?: ({
      /** Paths of layers, such as `model.layers.0` or `*.mlp`; `*` any characters, `{a,b}` one of several. */
      match: string;
      /** Their number format. */
      dtype: 'fp32' | 'bf16' | 'fp16' | 'fp8';
    })[] | undefined;
    /** Factor of the loss that keeps fp16 gradients in range; it follows their overflows. */
    lossScale?: {
      /** Factor of the first update. Default: 32768. */
      initial?: number | undefined;
      /** What it is multiplied with after `growthInterval` updates without overflow. Default: 2. */
      growth?: number | undefined;
      /** What it is multiplied with after an overflow. Default: 0.5. */
      backoff?: number | undefined;
      /** Updates without overflow after which it grows. Default: 2000. */
      growthInterval?: number | undefined;
    } | undefined;
    /** What the tiles of fp8 are scaled with: the largest element over 448, or the next power of two. Default: "float". */
    fp8Scale?: 'float' | 'power-of-two' | undefined;
  } | undefined;
  /** Threads of the computation; null: as many as there are processors that the process may use. Default: null. */
  threads?: number | null | undefined;
  /** Bind each of them to a processor of its own (Linux); for a machine that does nothing else. Default: false. */
  pinThreads?: boolean | undefined;
  /** Continue what is in the run directory, or start when there is nothing. Default: false. */
  resume?: boolean | undefined;
}
