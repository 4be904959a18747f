import { LearndError } from '../../../base/errors.ts';
import { tokenizerFromGguf } from '../tokenizer/gguf.ts';
import type { Checkpoint, HostTensor, ModelConfig, Tokenizer } from '../types.ts';
import { elementsOf, type GgmlType } from './ggml.ts';
import { GgufFile } from './gguf-read.ts';
import { fitting } from './hf-folder.ts';
import {
  checkShapes,
  expectedShapes,
  ggufName,
  hfName,
  permutesRope,
  rotatedHeads,
  unrotateRows,
} from './llama-layout.ts';
import type { RawTensor, RawWeightSource } from './raw-weights.ts';

/** A model opened from a GGUF file; `gguf` has the typed metadata and the stored tensors. */
export interface GgufCheckpoint extends Checkpoint {
  readonly kind: 'gguf';
  readonly gguf: GgufFile;
  readonly architecture: string;
  readonly weights: RawWeightSource;
}

/** `deci` is Llama with a width for each layer: llama.cpp takes one for all from its `llama`. */
const ARCHITECTURES = ['llama', 'llama-embed', 'deci', 'qwen2'];

function unsupported(file: GgufFile, field: string, what: string): LearndError {
  return new LearndError('invalid', `${file.path}: ${field}: ${what}`, {
    field,
    hint: 'learnd trains Llama-family decoders: RMSNorm, plain RoPE, SwiGLU, grouped-query attention.',
    retriable: false,
  });
}

function bad(file: GgufFile, key: string, what: string): LearndError {
  return new LearndError('corrupt', `${file.path}: metadata.${key}: ${what}`, { field: key, retriable: false });
}

class Keys {
  readonly #file: GgufFile;
  readonly #prefix: string;
  constructor(file: GgufFile, prefix: string) {
    this.#file = file;
    this.#prefix = prefix;
  }
  #value(key: string): unknown {
    return this.#file.metadata.get(`${this.#prefix}.${key}`)?.value;
  }
  has(key: string): boolean {
    return this.#value(key) !== undefined;
  }
  number(key: string, fallback?: number): number {
    const value = this.#value(key) ?? fallback;
    if (typeof value !== 'number' || !Number.isFinite(value) || value <= 0) {
      throw bad(this.#file, `${this.#prefix}.${key}`, `${String(value)} is not a positive number`);
    }
    return value;
  }
  count(key: string, fallback?: number): number {
    const value = this.number(key, fallback);
    if (!Number.isInteger(value) || value > 2 ** 31) {
      throw bad(this.#file, `${this.#prefix}.${key}`, `${value} is not a count`);
    }
    return value;
  }
  /** One number for all layers, or an array with one a layer (llama.cpp reads both). */
  perLayer(key: string, layers: number): number[] {
    const value = this.#value(key);
    if (!Array.isArray(value)) return new Array(layers).fill(this.count(key));
    if (value.length !== layers || !value.every(v => Number.isInteger(v) && v > 0)) {
      throw bad(this.#file, `${this.#prefix}.${key}`, `must be ${layers} positive counts`);
    }
    return value as number[];
  }
}

function readConfig(file: GgufFile, architecture: string): ModelConfig {
  const keys = new Keys(file, architecture);
  const layers = keys.count('block_count');
  if (layers > 4096) throw bad(file, `${architecture}.block_count`, `${layers} layers`);
  const hidden = keys.count('embedding_length');
  const same = (key: string): number => {
    const values = keys.perLayer(key, layers);
    if (new Set(values).size > 1) throw unsupported(file, `${architecture}.${key}`, 'differs between layers');
    return values[0]!;
  };
  const heads = same('attention.head_count');
  const kvHeads = keys.has('attention.head_count_kv') ? same('attention.head_count_kv') : heads;
  const headDim = keys.count('attention.key_length', hidden / heads);
  if (heads % kvHeads !== 0 || headDim % 2 !== 0) {
    throw bad(file, `${architecture}.attention.head_count`, `${heads} heads, ${kvHeads} kv heads of ${headDim}`);
  }
  if (keys.count('rope.dimension_count', headDim) !== headDim) {
    throw unsupported(file, `${architecture}.rope.dimension_count`, 'only a part of each head is rotated');
  }
  const scaling = file.metadata.get(`${architecture}.rope.scaling.type`)?.value;
  if (scaling !== undefined && scaling !== 'none') {
    throw unsupported(file, `${architecture}.rope.scaling.type`, `${String(scaling)} scaling of positions`);
  }
  if (file.tensors.has('rope_freqs.weight') && file.float('rope_freqs.weight').some(f => f !== 1)) {
    throw unsupported(file, 'rope_freqs.weight', 'scaled RoPE frequencies (Llama 3.1 and later)');
  }
  if (keys.has('expert_count')) throw unsupported(file, `${architecture}.expert_count`, 'a mixture of experts');
  return {
    vocabSize: file.info('token_embd.weight').shape[0]!,
    hidden,
    layers,
    heads,
    kvHeads,
    headDim,
    ffn: keys.perLayer('feed_forward_length', layers),
    contextLength: keys.count('context_length'),
    ropeTheta: keys.number('rope.freq_base', 10_000),
    rmsEps: decimal(keys.number('attention.layer_norm_rms_epsilon')),
    tied: !file.tensors.has('output.weight'),
    attentionBias: file.tensors.has('blk.0.attn_q.bias'),
    ...(file.tensors.has('blk.0.ffn_down.bias') && { downBias: true }),
  };
}

/** 1e-5 is stored as float32 9.999999747e-06; the shortest decimal that rounds to it is what the author wrote. */
function decimal(stored: number): number {
  for (let digits = 1; digits < 9; digits++) {
    const short = Number(stored.toPrecision(digits));
    if (Math.fround(short) === stored) return short;
  }
  return stored;
}

class GgufWeights implements RawWeightSource {
  readonly #file: GgufFile;
  readonly #config: ModelConfig;
  readonly #names: string[];
  readonly #permuted: boolean;

  constructor(file: GgufFile, config: ModelConfig, architecture: string) {
    this.#file = file;
    this.#config = config;
    this.#names = [...expectedShapes(config).keys()];
    this.#permuted = permutesRope(architecture);
  }

  names(): string[] {
    return [...this.#names];
  }

  #stored(name: string): string {
    const stored = ggufName(name);
    if (stored === undefined || !this.#file.tensors.has(stored)) {
      throw new LearndError('not_found', `${this.#file.path} has no tensor ${name}`, { retriable: false });
    }
    return stored;
  }

  shape(name: string): readonly number[] {
    return this.#file.info(this.#stored(name)).shape;
  }

  #heads(name: string): number | undefined {
    return this.#permuted ? rotatedHeads(name, this.#config) : undefined;
  }

  read(name: string, into?: Float32Array): HostTensor {
    const stored = this.#stored(name);
    const data = this.#file.float(stored, into);
    const heads = this.#heads(name);
    const rows = heads === undefined ? data : unrotateRows(data, heads, this.#config.headDim);
    return { shape: this.#file.info(stored).shape, data: rows };
  }

  readRows(name: string, row: number, out: Float32Array): boolean {
    if (this.#heads(name) !== undefined) return false;
    this.#file.floatRows(this.#stored(name), row, out);
    return true;
  }

  storedType(name: string): GgmlType {
    return this.#file.info(this.#stored(name)).type;
  }

  raw(name: string): RawTensor {
    const info = this.#file.info(this.#stored(name));
    const heads = this.#heads(name);
    return {
      type: info.type,
      shape: info.shape,
      bytes: () => {
        const bytes = this.#file.raw(info.name);
        return heads === undefined ? bytes : unrotateRows(bytes, heads, this.#config.headDim);
      },
    };
  }
}

/** Opens a GGUF model of a supported architecture; every tensor's presence and shape is checked, none is read yet. */
export function openGguf(path: string): GgufCheckpoint {
  const gguf = new GgufFile(path);
  const architecture = String(gguf.metadata.get('general.architecture')?.value ?? '');
  if (!ARCHITECTURES.includes(architecture)) {
    throw unsupported(gguf, 'general.architecture', `'${architecture}' is not one of ${ARCHITECTURES.join(', ')}`);
  }
  const config = readConfig(gguf, architecture);
  checkShapes(path, config, name => gguf.tensors.get(ggufName(name)!)?.shape);
  const known = expectedShapes(config);
  for (const info of gguf.tensors.values()) {
    if (!known.has(hfName(info.name) ?? '') && info.name !== 'rope_freqs.weight') {
      throw unsupported(gguf, info.name, `a tensor of ${elementsOf(info.shape)} weights that learnd has no use for`);
    }
  }
  const template = gguf.metadata.get('tokenizer.chat_template')?.value;
  let tokenizer: Tokenizer | undefined;
  return {
    kind: 'gguf',
    path,
    gguf,
    architecture,
    config,
    weights: new GgufWeights(gguf, config, architecture),
    get tokenizer() {
      tokenizer ??= fitting(tokenizerFromGguf(gguf), path, config);
      return tokenizer;
    },
    chatTemplate: typeof template === 'string' ? template : undefined,
    metadata: gguf.plainMetadata(),
  };
}
