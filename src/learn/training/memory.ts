/** What a training needs of memory, foreseen from its shapes, so that it is refused before it has begun and not killed in the middle. */
import { freemem } from 'node:os';
import { LearndError } from '../../base/errors.ts';
import type { ModelConfig } from '../model/types.ts';
import type { Method } from './trainables.ts';

export interface MemoryNeed {
  readonly weights: number;
  /** Gradients, the optimizer's moments, and the copies an update makes; not at the same time as the activations. */
  readonly training: number;
  /** Of one microbatch. */
  readonly activations: number;
  readonly total: number;
}

/** Node, native TensorFlow and the tokenizer before anything is loaded. */
const RUNTIME = 350e6;

export function parameterCount(config: ModelConfig): number {
  const { hidden, headDim, heads, kvHeads, vocabSize, tied, attentionBias } = config;
  const width = (heads + 2 * kvHeads) * headDim;
  const attention = hidden * width + heads * headDim * hidden + (attentionBias ? width : 0);
  const blocks = config.ffn.reduce((sum, ffn) => sum + attention + 3 * hidden * ffn + 2 * hidden, 0);
  return vocabSize * hidden * (tied ? 1 : 2) + blocks + hidden;
}

/**
 * Bytes at the peak, a quarter added for what allocators and temporaries take: SmolLM2-135M, 5 sequences of 128, measured and foreseen:
 * LoRA 2.1 and 3.0 GB, all weights 3.4 and 3.8 GB.
 * @param sequence longest example; a microbatch holds `maxTokens`, or one example where that is longer
 */
export function memoryNeed(
  config: ModelConfig,
  method: Method | { readonly kind: 'histogram' },
  { sequence, maxTokens = 1024, isPrivate }: { sequence: number; maxTokens?: number; isPrivate: boolean },
): MemoryNeed {
  const parameters = parameterCount(config);
  const tokens = Math.max(maxTokens, sequence);
  const widest = Math.max(...config.ffn, 1);
  const layers = 'layers' in method && method.layers !== undefined ? method.layers : config.layers;
  const kept = method.kind === 'histogram' ? 1 : layers;
  // Inputs and outputs of a block's layers, and the attention's weights twice (forward and its gradient).
  const perBlock = tokens * (12 * config.hidden + 4 * widest) + 2 * config.heads * sequence * tokens;
  // Logits of a microbatch, their softmax, and its gradient.
  const logits = 3 * Math.min(tokens, 512) * config.vocabSize;
  const activations = 4 * (perBlock * kept + logits);
  const weights = 4 * parameters;
  const trained = method.kind === 'full' ? weights : 0.05 * weights;
  // Either a pass is under way, its sums beside it, or the optimizer is, its two moments and the sums beside it.
  const pass = activations + (isPrivate ? 2 : 1) * trained;
  const update = 4 * trained;
  return {
    weights,
    training: update,
    activations,
    total: Math.round(1.25 * (RUNTIME + weights + Math.max(pass, update))),
  };
}

/** Memory that this process may still take, bytes: what the machine or the container has left. */
export const availableMemory = (): number => process.availableMemory?.() ?? freemem();

/** @throws LearndError('invalid') with the figures */
export function checkMemory(need: MemoryNeed, available = availableMemory()): void {
  if (need.total <= available) return;
  const mb = (bytes: number): string => `${Math.ceil(bytes / 1e6)} MB`;
  throw new LearndError(
    'invalid',
    `the training needs about ${mb(need.total)} of memory (weights ${mb(need.weights)}, gradients and optimizer ${mb(need.training)}, activations ${mb(need.activations)}), and ${mb(available)} are free`,
    { field: 'memory', hint: 'Take a method that trains less (lora, norms), a shorter sequence, or a smaller model.' },
  );
}
