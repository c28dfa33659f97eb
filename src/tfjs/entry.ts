// biome-ignore-all lint/performance/noBarrelFile: the package's second public face, `hadal/tfjs`.
export { forwardTfjs, weightsFromTfjs, weightsToTfjs } from './model.js';
export {
  type LoadTensorflowOptions,
  loadTensorflow,
  type Tensorflow,
  type TfDType,
  type TfTensor,
} from './tensorflow.js';
export { fromTfjs, type NumberArray, type Numbers, toTfjs } from './tensors.js';
