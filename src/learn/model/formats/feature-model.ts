import { invalid } from '../../../base/errors.ts';
import type { Checkpoint, ModelConfig } from '../types.ts';
import type { WrittenFile } from './atomic-file.ts';
import type { GgmlType } from './ggml.ts';
import { bool, type GgufValue, str, u32 } from './gguf-value.ts';
import { writeGguf } from './gguf-write.ts';
import { configKeys, modelMetadata, planTensors } from './model-gguf.ts';
import { quantize } from './quantize-blocks.ts';

const ARCHITECTURE = 'llama-embed';

/**
 * Writes the first `layers` blocks as a llama.cpp embedding model: the mean over tokens of the RMS-normalised hidden state
 * after the last block kept. With `keep` stored tensors are copied as they are. Another type may be read faster: q8_0 takes 21 ms of a
 * core for a text of 13 tokens where the Q4_1 of SmolLM2-135M takes 32, f16 36 and f32 42 (10 blocks; cosine to f32 .9999). The
 * final norm is all ones (the model's own belongs to its last layer), attention stays causal, pooling is the mean.
 * Open it with a context whose batch holds the longest text: llama.cpp is silently wrong on longer ones.
 */
export async function writeFeatureModel(
  checkpoint: Checkpoint,
  layers: number,
  out: string,
  type: GgmlType | 'keep' = 'keep',
): Promise<WrittenFile> {
  const full = checkpoint.config;
  if (!Number.isInteger(layers) || layers < 1 || layers > full.layers) {
    throw invalid('layers', `${layers} is not between 1 and the model's ${full.layers}`);
  }
  const config: ModelConfig = { ...full, layers, ffn: full.ffn.slice(0, layers), tied: true };
  if (new Set(config.ffn).size > 1) {
    throw invalid('config.ffn', `the first ${layers} layers have several widths, a feature model has one`, {
      hint: 'Take the features from the base model.',
    });
  }
  const { plans } = planTensors(config, checkpoint.weights, type, ARCHITECTURE);
  const ones = quantize('f32', new Float32Array(config.hidden).fill(1));
  const tensors = plans.map(plan => (plan.name === 'output_norm.weight' ? { ...plan, bytes: () => ones } : plan));

  const metadata = new Map<string, GgufValue>();
  const model = modelMetadata(
    { config, weights: checkpoint.weights, tokenizer: checkpoint.tokenizer },
    { type: 'keep', source: checkpoint },
    'f32',
  );
  for (const [key, value] of model) {
    if (!/^(llama|deci|qwen2)\./.test(key) && key !== 'general.file_type') metadata.set(key, value);
  }
  metadata.set('general.architecture', str(ARCHITECTURE));
  for (const [key, value] of configKeys(config, ARCHITECTURE)) metadata.set(key, value);
  metadata.set(`${ARCHITECTURE}.pooling_type`, u32(1));
  metadata.set(`${ARCHITECTURE}.attention.causal`, bool(true));
  return writeGguf(out, metadata, tensors);
}
