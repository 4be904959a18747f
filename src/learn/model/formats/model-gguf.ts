import { invalid } from '../../../base/errors.ts';
import { BpeTokenizer } from '../tokenizer/bpe.ts';
import { tokenizerToGguf } from '../tokenizer/gguf.ts';
import type { Checkpoint, ModelConfig, Tokenizer, WeightSource } from '../types.ts';
import type { WrittenFile } from './atomic-file.ts';
import { GGML, type GgmlType } from './ggml.ts';
import type { GgufCheckpoint } from './gguf-checkpoint.ts';
import { f32, type GgufMetadata, type GgufValue, i32s, str, u32 } from './gguf-value.ts';
import { type GgufTensorPlan, writeGguf } from './gguf-write.ts';
import { expectedShapes, ggufName, permutesRope, rotatedHeads, rotateRows } from './llama-layout.ts';
import { quantize } from './quantize-blocks.ts';
import { rawOf, storedTypeOf } from './raw-weights.ts';

/** What a full model is made of. */
export interface ModelParts {
  readonly config: ModelConfig;
  readonly weights: WeightSource;
  readonly tokenizer: Tokenizer;
  readonly chatTemplate?: string;
  readonly name?: string;
}

export interface GgufExportOptions {
  /**
   * 'keep' leaves every tensor in the type it is stored in (a changed one is encoded to the type of the one it replaces);
   * a type encodes all matrices to it, but copies those already in it.
   */
  readonly type: GgmlType | 'keep';
  /** The model this one comes from: its further metadata (licence, author, template) is carried over. */
  readonly source?: Checkpoint;
  /** Keys laid over all others. */
  readonly metadata?: GgufMetadata;
}

export interface TensorReport {
  readonly name: string;
  readonly type: GgmlType;
  /** Copied as stored, or encoded from float32. */
  readonly how: 'copied' | 'encoded';
  /** Why the type is not the one asked for. */
  readonly note?: string;
}

export interface ExportedGguf extends WrittenFile {
  readonly tensors: readonly TensorReport[];
  /** How many tensors are of each type. */
  readonly types: Readonly<Partial<Record<GgmlType, number>>>;
  /** The same notes, once each, for a person. */
  readonly notes: readonly string[];
}

/** What llama-quant.cpp takes where rows are not a multiple of 256. */
const FALLBACK: Partial<Record<GgmlType, GgmlType>> = { q4_k: 'q5_0', q5_k: 'q5_1', q6_k: 'q8_0' };
/** What embeddings are kept in, which lose most by coarse codes: llama-quant.cpp has q6_k under the k-quants. */
const EMBEDDING_TYPE: Partial<Record<GgmlType, GgmlType>> = {
  ...{ q4_0: 'q8_0', q4_1: 'q8_0', q5_0: 'q8_0', q5_1: 'q8_0' },
  ...{ q4_k: 'q6_k', q5_k: 'q6_k' },
};
const EMBEDDING = new Set(['model.embed_tokens.weight', 'lm_head.weight']);

interface Choice {
  readonly type: GgmlType;
  readonly note?: string;
}

/** The type a tensor is written in. */
function chooseType(
  name: string,
  shape: readonly number[],
  asked: GgmlType | 'keep',
  stored: GgmlType | undefined,
): Choice {
  if (shape.length === 1) return { type: 'f32' };
  if (asked === 'keep') return stored === undefined ? { type: 'f16' } : fitting(stored, shape);
  const kept = EMBEDDING.has(name) ? EMBEDDING_TYPE[asked] : undefined;
  if (kept === undefined) return fitting(asked, shape);
  const { type } = fitting(kept, shape);
  return { type, note: `embeddings are kept in ${type} under ${asked}` };
}

/** `type`, or the nearest one whose blocks the rows divide into. */
function fitting(type: GgmlType, shape: readonly number[]): Choice {
  const columns = shape.at(-1)!;
  const fits = (candidate: GgmlType): boolean => columns % GGML[candidate].block === 0;
  if (fits(type)) return { type };
  const next = FALLBACK[type];
  const instead = next !== undefined && fits(next) ? next : 'f16';
  return {
    type: instead,
    note: `rows of ${columns} do not divide into ${type}'s blocks of ${GGML[type].block}: ${instead}`,
  };
}

/** Plans each tensor: its stored bytes where the type fits, else an encoding of its float32 values. */
export function planTensors(
  config: ModelConfig,
  weights: WeightSource,
  type: GgmlType | 'keep',
  architecture: string,
): { plans: GgufTensorPlan[]; report: TensorReport[] } {
  const plans: GgufTensorPlan[] = [];
  const report: TensorReport[] = [];
  for (const [name, shape] of expectedShapes(config)) {
    const found = weights.shape(name);
    if (found.join() !== shape.join()) {
      throw invalid(name, `has shape [${found.join(', ')}], the configuration says [${shape.join(', ')}]`);
    }
    const raw = rawOf(weights, name);
    const choice = chooseType(name, shape, type, storedTypeOf(weights, name));
    const copied = raw !== undefined && raw.type === choice.type;
    const heads = permutesRope(architecture) ? rotatedHeads(name, config) : undefined;
    plans.push({
      name: ggufName(name)!,
      shape,
      type: choice.type,
      bytes: () => {
        const bytes = copied ? raw.bytes() : quantize(choice.type, weights.read(name).data, name);
        return heads === undefined ? bytes : rotateRows(bytes, heads, config.headDim);
      },
    });
    report.push({ name, type: choice.type, how: copied ? 'copied' : 'encoded', note: choice.note });
  }
  return { plans, report };
}

/**
 * GGUF's name for the architecture. llama.cpp has one feed-forward width for all layers of a `llama` and a `qwen2`; its `deci`
 * is a `llama` with a width for each.
 */
export function architectureOf(config: ModelConfig, source?: Checkpoint): string {
  const stored = (source as Partial<GgufCheckpoint> | undefined)?.architecture;
  const base = stored === 'qwen2' || (config.attentionBias && stored === undefined) ? 'qwen2' : 'llama';
  if (base === 'qwen2' && config.downBias) {
    throw invalid('config.downBias', "llama.cpp's qwen2 has no bias in its feed-forward layers", {
      hint: 'Prune by another method than flap.',
    });
  }
  if (new Set(config.ffn).size === 1) return base;
  if (base === 'llama') return 'deci';
  throw invalid(
    'config.ffn',
    'llama.cpp has one feed-forward width for all layers of a qwen2 model, this one several',
    {
      hint: 'Prune every layer to the same width.',
    },
  );
}

/** `config` as GGUF keys under `architecture`. */
export function configKeys(config: ModelConfig, architecture: string): Map<string, GgufValue> {
  const even = new Set(config.ffn).size === 1;
  const keys: Array<[string, GgufValue]> = [
    ['vocab_size', u32(config.vocabSize)],
    ['context_length', u32(config.contextLength)],
    ['embedding_length', u32(config.hidden)],
    ['block_count', u32(config.layers)],
    ['feed_forward_length', even ? u32(config.ffn[0]!) : i32s(config.ffn)],
    ['attention.head_count', u32(config.heads)],
    ['attention.head_count_kv', u32(config.kvHeads)],
    ['attention.layer_norm_rms_epsilon', f32(config.rmsEps)],
    ['rope.freq_base', f32(config.ropeTheta)],
    ['rope.dimension_count', u32(config.headDim)],
  ];
  if (config.headDim * config.heads !== config.hidden) {
    keys.push(['attention.key_length', u32(config.headDim)], ['attention.value_length', u32(config.headDim)]);
  }
  return new Map(keys.map(([key, value]) => [`${architecture}.${key}`, value]));
}

/** Keys of the source that still hold: its shape and quantization are replaced, its size label and split are stale. */
function carriedOver(source: Checkpoint | undefined): Map<string, GgufValue> {
  const out = new Map<string, GgufValue>();
  const gguf = (source as Partial<GgufCheckpoint> | undefined)?.gguf;
  const architecture = (source as Partial<GgufCheckpoint> | undefined)?.architecture;
  for (const [key, value] of gguf?.metadata ?? []) {
    const stale = /^(split\.|general\.(size_label|file_type|parameter_count)$)/.test(key);
    if (!stale && !key.startsWith(`${architecture}.`)) out.set(key, value);
  }
  return out;
}

function tokenizerKeys(parts: ModelParts, source: Checkpoint | undefined): GgufMetadata {
  // The source's own keys are already carried over; writing them anew would lose what a spec has no place for.
  const carried = (source as Partial<GgufCheckpoint> | undefined)?.gguf;
  if (carried !== undefined && source?.tokenizer === parts.tokenizer) return new Map();
  if (!(parts.tokenizer instanceof BpeTokenizer)) {
    throw invalid('tokenizer', 'only a byte-level BPE tokenizer can be written to GGUF');
  }
  return tokenizerToGguf(parts.tokenizer.spec);
}

/** One a token, so they would not fit another vocabulary; byte-level BPE has no use for them. */
const SCORES = 'tokenizer.ggml.scores';

/** Metadata in the order llama.cpp's own converter writes it: general, architecture, tokenizer. */
export function modelMetadata(parts: ModelParts, options: GgufExportOptions, fileType: GgmlType): GgufMetadata {
  const architecture = architectureOf(parts.config, options.source);
  const out = new Map<string, GgufValue>([
    ['general.architecture', str(architecture)],
    ['general.type', str('model')],
  ]);
  for (const [key, value] of carriedOver(options.source)) out.set(key, value);
  if (parts.name !== undefined || !out.has('general.name')) out.set('general.name', str(parts.name ?? 'learnd'));
  for (const [key, value] of configKeys(parts.config, architecture)) out.set(key, value);
  const tokenizer = tokenizerKeys(parts, options.source);
  if (tokenizer.size > 0) out.delete(SCORES);
  for (const [key, value] of tokenizer) out.set(key, value);
  if (parts.chatTemplate !== undefined) out.set('tokenizer.chat_template', str(parts.chatTemplate));
  out.set('general.file_type', u32(GGML[fileType].fileType));
  out.set('general.quantization_version', u32(2));
  for (const [key, value] of options.metadata ?? []) out.set(key, value);
  return out;
}

/**
 * Writes a full model as GGUF that llama.cpp loads. Tensors whose stored bytes still hold are copied, the others are encoded;
 * `tensors` in the result says which. Temporary file, flush, rename.
 */
export async function writeModelGguf(
  parts: ModelParts,
  out: string,
  options: GgufExportOptions,
): Promise<ExportedGguf> {
  const architecture = architectureOf(parts.config, options.source);
  const { plans, report } = planTensors(parts.config, parts.weights, options.type, architecture);
  // A type asked for is named as llama-quantize names it, whatever some tensors fell back to.
  const metadata = modelMetadata(parts, options, options.type === 'keep' ? mostly(plans) : options.type);
  const written = await writeGguf(out, metadata, plans);
  const notes = [...new Set(report.flatMap(tensor => tensor.note ?? []))];
  const types: Partial<Record<GgmlType, number>> = {};
  for (const { type } of report) types[type] = (types[type] ?? 0) + 1;
  return { ...written, tensors: report, types, notes };
}

/** The type of most tensors that have rows: llama.cpp's "mostly". */
function mostly(plans: readonly GgufTensorPlan[]): GgmlType {
  const counts = new Map<GgmlType, number>();
  for (const { shape, type } of plans) if (shape.length > 1) counts.set(type, (counts.get(type) ?? 0) + 1);
  return [...counts].reduce((a, b) => (b[1] > a[1] ? b : a))[0];
}
