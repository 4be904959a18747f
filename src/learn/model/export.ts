/** Every way a model or an adapter leaves learnd. All files are written by temporary file, flush and rename. */
export { sha256OfFile, type WrittenFile } from './formats/atomic-file.ts';
export { writeFeatureModel } from './formats/feature-model.ts';
export type { GgmlType } from './formats/ggml.ts';
export { writeSafetensors } from './formats/hf-write.ts';
export { writeLoraGguf, writePeft } from './formats/lora-files.ts';
export {
  type ExportedGguf,
  type GgufExportOptions,
  type ModelParts,
  type TensorReport,
  writeModelGguf,
} from './formats/model-gguf.ts';
export { EditedWeights } from './formats/raw-weights.ts';
export { mergeLora } from './merge.ts';
export { type GrownModel, growModel } from './tokenizer/grow-model.ts';
